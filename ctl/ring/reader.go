package ring

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// Reader takes records out of a ring. There must be one at a time. Read and Close may be called concurrently.
type Reader[T any] struct {
	ring   *ringbuf.Reader
	record ringbuf.Record
	what   string
	parse  func([]byte) (T, error)
}

// NewReader returns a reader of the ring, which must outlive it. What is in it already is read first. Errors call a record what it is;
// parse makes a T of one, and keeps none of its bytes.
func NewReader[T any](ring *ebpf.Map, what string, parse func(raw []byte) (T, error)) (*Reader[T], error) {
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return nil, fmt.Errorf("open the ring of each %s: %w", what, err)
	}
	return &Reader[T]{ring: reader, what: what, parse: parse}, nil
}

// Close makes Read return os.ErrClosed.
func (r *Reader[T]) Close() error { return r.ring.Close() }

// Read waits for the next record.
func (r *Reader[T]) Read() (record T, err error) {
	if err := r.ring.ReadInto(&r.record); err != nil {
		if errors.Is(err, os.ErrClosed) {
			return record, os.ErrClosed
		}
		return record, fmt.Errorf("read the next %s: %w", r.what, err)
	}
	return r.parse(r.record.RawSample)
}

// Pending returns the records that are there now.
func (r *Reader[T]) Pending() (all []T, err error) {
	r.ring.SetDeadline(time.Unix(1, 0))
	defer r.ring.SetDeadline(time.Time{})
	for {
		record, err := r.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, record)
	}
}
