package daemon

import (
	"fmt"
	"net"
	"os"
)

// notify tells the service manager that started us how things are (sd_notify(3)): "READY=1". Without one it does nothing.
func notify(state string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", socket) // a leading @ is the abstract namespace, in Go as there
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}
