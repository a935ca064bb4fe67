//go:build !vm

package e2e

import "time"

// patience bounds every wait.
const patience = 20 * time.Second
