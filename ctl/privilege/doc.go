// Package privilege gives up what the daemon needs no more once it runs: capabilities, the way back to them, running programs,
// writing to most files, and system calls that it never makes. What it may still do is read from the kernel, not remembered.
package privilege
