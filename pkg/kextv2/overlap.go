package kextv2

import (
	"fmt"

	"github.com/weirfw/weir/internal/kextcore"
	"github.com/weirfw/weir/internal/kextwire/stream"
)

// maxOverlapped is how many verdicts of the reader are on their way at a time.
const maxOverlapped = 32

// starter is a Device that can have several writes on their way. They reach the driver in the order in which they are started.
type starter interface {
	// StartWrite is Write, but does not wait for its end: Wait does, which is called once. b stays as it is until then.
	StartWrite(b []byte) (interface{ Wait() error }, error)
}

// overlapped are the verdicts that the reader has begun to tell. One command is one write, and a driver that takes its time for each
// would hold up all others: so the reader goes on with what it has read, and waits at the end.
type overlapped struct {
	dev    starter // nil if the device cannot do it
	buf    [maxOverlapped]kextcore.Scratch
	writes [maxOverlapped]interface{ Wait() error }
	n      int
}

// begin tells a verdict. It reports false if the device cannot do so without waiting.
func (o *overlapped) begin(s *kextcore.Session, id uint64, number stream.Verdict) bool {
	if o.dev == nil {
		return false
	}
	if o.n == maxOverlapped {
		o.finish(s)
	}
	w, err := o.dev.StartWrite(stream.AppendVerdict(o.buf[o.n][:0], id, number))
	if err != nil {
		o.told(s, err)
		return true
	}
	o.writes[o.n] = w
	o.n++
	return true
}

// finish waits for all of them.
func (o *overlapped) finish(s *kextcore.Session) {
	for i := range o.n {
		o.told(s, o.writes[i].Wait())
		o.writes[i] = nil
	}
	o.n = 0
}

// told passes on what the driver said. The session counts it, and ends if it goes on.
func (*overlapped) told(s *kextcore.Session, err error) {
	if err != nil {
		err = fmt.Errorf("write: %w", err)
	}
	_ = s.Told(err) //nolint:errcheck // see above
}
