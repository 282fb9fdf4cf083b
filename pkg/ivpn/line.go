package ivpn

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// MaxLine is how many bytes a message may have: a daemon sends lists of servers
// of some ten KiB, so what is much longer is no daemon's.
const MaxLine = 4 << 20

// keepLine is how much memory for lines is kept between two of them.
const keepLine = 64 << 10

// ErrLineTooLong is wrapped when the other side sends a line beyond MaxLine.
var ErrLineTooLong = errors.New("ivpn: line too long")

// lines reads what a stream has between newlines.
type lines struct {
	r   *bufio.Reader
	buf []byte
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, 4096)} }

// next returns the next line without its newline. It is valid until the call
// after. What comes before the end of the stream without a newline is no line.
func (l *lines) next() ([]byte, error) {
	if cap(l.buf) > keepLine {
		l.buf = nil
	}
	l.buf = l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.buf)+len(part) > MaxLine+1 {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrLineTooLong, MaxLine)
		}
		switch {
		case err == nil && len(l.buf) == 0:
			return part[:len(part)-1], nil
		case err == nil:
			l.buf = append(l.buf, part...)
			return l.buf[:len(l.buf)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err //nolint:wrapcheck // the session says what it read
		}
		l.buf = append(l.buf, part...)
	}
}
