// Package e2e has no code of its own: its tests run the gardu program as a user does, in network namespaces, with curl
// and nginx as peers. They need root.
package e2e
