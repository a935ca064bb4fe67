package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// sshConnection returns what sshd said about the connection that this command is run from; "" when it wasn't. sudo takes
// the variable out of the environment, so those of the processes above this one are looked at too.
func sshConnection() string {
	const (
		name     = "SSH_CONNECTION"
		deepest  = 32
		parentAt = 1 // in /proc/PID/stat, behind the name in parentheses
	)
	if value := os.Getenv(name); value != "" {
		return value
	}
	for pid, depth := os.Getppid(), 0; pid > 1 && depth < deepest; depth++ {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			return ""
		}
		for entry := range bytes.SplitSeq(environ, []byte{0}) {
			if value, ok := strings.CutPrefix(string(entry), name+"="); ok {
				return value
			}
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return ""
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) <= parentAt {
			return ""
		}
		if pid, err = strconv.Atoi(fields[parentAt]); err != nil {
			return ""
		}
	}
	return ""
}
