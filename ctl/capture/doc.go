// Package capture is what user space has to do with packets that are captured: it turns expressions into the tests that programs
// evaluate (Compile), and takes out of the ring what they tell of (Reader). bpf/capture.h is the other side.
package capture
