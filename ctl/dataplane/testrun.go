package dataplane

import (
	"errors"
	"runtime"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// testRun runs frames through the programs of a private instance, with one system call each: what that needs lies in memory that is
// used again and again, and the trace is cleared and read by mmap. By the library it takes five. (Two of them keep a profiler's
// signals away, which do no harm: a single run is never interrupted.)
type testRun struct {
	sync.Mutex // the trace map serves one at a time
	mapped     []byte
	empty      map[ebpf.ProgramType]*ebpf.Program
	*testRunMemory
}

// testRunMemory is what the kernel knows by its address.
type testRunMemory struct {
	attr    progRunAttr
	xdp     xdpContext
	skb     skbContext
	in, out []byte
}

// progRunAttr is the kernel's union bpf_attr of BPF_PROG_TEST_RUN, as far as it is used here.
type progRunAttr struct {
	program, result               uint32
	inBytes, outBytes             uint32
	in, out                       uint64
	repeat, duration              uint32
	contextBytes, contextOutBytes uint32
	context, contextOut           uint64
}

// begin makes the memory, once.
func (t *testRun) begin(trace *ebpf.Map) (err error) {
	if t.mapped != nil {
		return nil
	}
	if t.mapped, err = mapMemory(trace); err == nil {
		t.testRunMemory = &testRunMemory{}
	}
	return err
}

func (t *testRun) trace() *abi.Trace { return (*abi.Trace)(unsafe.Pointer(unsafe.SliceData(t.mapped))) }

func (t *testRun) close() error {
	var errs []error
	for _, program := range t.empty {
		errs = append(errs, program.Close())
	}
	if t.mapped != nil {
		errs = append(errs, unix.Munmap(t.mapped))
	}
	return errors.Join(errs...)
}

// at puts a frame through a program of that hook so many times, on the interface with that index; 0 is the loopback.
func (t *testRun) at(hook Hook, program *ebpf.Program, frame []byte, ifindex, repeat int) (action uint32, out []byte, err error) {
	if ifindex == 0 {
		ifindex = 1
	}
	switch hook {
	case HookXDP:
		t.xdp = xdpContext{DataEnd: uint32(len(frame)), IngressIfindex: uint32(ifindex)}
		return t.run(program, frame, unsafe.Pointer(&t.xdp), unsafe.Sizeof(t.xdp), repeat)
	case HookIngress:
		t.skb = skbContext{Ifindex: uint32(ifindex), IngressIfindex: uint32(ifindex)}
	default:
		t.skb = skbContext{Ifindex: uint32(ifindex)}
	}
	return t.run(program, frame, unsafe.Pointer(&t.skb), unsafe.Sizeof(t.skb), repeat)
}

// run puts a frame through a program so many times. What comes out is valid until the next run. The error is an errno.
func (t *testRun) run(program *ebpf.Program, frame []byte, context unsafe.Pointer, contextBytes uintptr, repeat int) (action uint32, out []byte, err error) {
	if len(t.in) < len(frame) {
		t.in, t.out = make([]byte, 2*len(frame)), make([]byte, 2*len(frame)+frameGrowth)
	}
	copy(t.in, frame)
	t.attr = progRunAttr{
		program: uint32(program.FD()), context: address(context), contextBytes: uint32(contextBytes), repeat: uint32(repeat),
		in: address(unsafe.Pointer(unsafe.SliceData(t.in))), inBytes: uint32(len(frame)),
		out: address(unsafe.Pointer(unsafe.SliceData(t.out))), outBytes: uint32(len(frame) + frameGrowth),
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&t.attr)), unsafe.Sizeof(t.attr))
	runtime.KeepAlive(program)
	if errno != 0 {
		return 0, nil, errno
	}
	return t.attr.result, t.out[:t.attr.outBytes], nil
}

func address(p unsafe.Pointer) uint64 { return uint64(uintptr(p)) }
