//go:build amd64 || arm64 || 386

package ebpf

import (
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// question is one lookup of an owner, with all that the kernel reads and writes: one object, used again.
type question struct {
	key   attrTuple
	owner attrOwner
	attr  lookupAttr
}

// lookupAttr is union bpf_attr of linux/bpf.h, as far as looking up in a map goes.
type lookupAttr struct {
	fd    uint32
	_     uint32
	key   uint64
	value uint64
	flags uint64
}

// lookupElement is BPF_MAP_LOOKUP_ELEM.
const lookupElement = 1

// questions are the objects of lookups that are over.
type questions struct{ pool sync.Pool }

func (q *questions) get() *question {
	if one, ok := q.pool.Get().(*question); ok {
		return one
	}
	return new(question)
}

func (q *questions) put(one *question) { q.pool.Put(one) }

// ask looks the key up in a map and fills owner. The kernel answers in less than a microsecond and waits for nothing, so the scheduler
// is not told.
func (q *question) ask(fd int) bool {
	q.attr = lookupAttr{
		fd: uint32(fd), key: uint64(uintptr(unsafe.Pointer(&q.key))), value: uint64(uintptr(unsafe.Pointer(&q.owner))),
	}
	_, _, errno := unix.RawSyscall(unix.SYS_BPF, lookupElement, uintptr(unsafe.Pointer(&q.attr)), unsafe.Sizeof(q.attr))
	runtime.KeepAlive(q)
	return errno == 0
}
