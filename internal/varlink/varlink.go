// Package varlink speaks the client's side of Varlink (https://varlink.org/Wire-Protocol): JSON objects over a stream, each ended
// by a NUL byte. It knows no interface and no socket paths.
package varlink

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// MaxMessage is how long a message may be that is read. Answers of a resolver are at most some hundred kilobytes.
const MaxMessage = 4 << 20

// ErrTooLong is wrapped by the error about a message that is longer than MaxMessage. It was skipped: the next one can be read.
var ErrTooLong = errors.New("varlink: message too long")

// ErrMalformed is wrapped by the error about a message that is not what the protocol wants. The next one can be read.
var ErrMalformed = errors.New("varlink: malformed message")

// Call asks for a method.
type Call struct {
	// Method is its full name, such as "io.systemd.Resolve.ResolveHostname".
	Method string `json:"method"`
	// Parameters is an object; nil is none.
	Parameters any `json:"parameters,omitempty"`
	// More asks for any number of replies.
	More bool `json:"more,omitempty"`
}

// Reply is an answer to a Call.
type Reply struct {
	// Parameters is an object, or empty.
	Parameters json.RawMessage `json:"parameters,omitempty"`
	// Continues tells that more replies follow.
	Continues bool `json:"continues,omitempty"`
}

// Error is a reply that says why a Call failed.
type Error struct {
	// Name is the full name of the error, such as "org.varlink.service.MethodNotFound".
	Name string
	// Parameters is an object, or empty.
	Parameters json.RawMessage
}

// Error returns the name, and the parameters if there are any.
func (e *Error) Error() string {
	if p := string(e.Parameters); p != "" && p != "{}" {
		return e.Name + " " + p
	}
	return e.Name
}

// Conn is a connection to a service. One goroutine may send while another one receives.
type Conn struct {
	rw io.ReadWriteCloser
	in *Reader
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (*Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("varlink: connect: %w", err)
	}
	return NewConn(c), nil
}

// NewConn uses a stream that is connected already.
func NewConn(rw io.ReadWriteCloser) *Conn { return &Conn{rw: rw, in: NewReader(rw)} }

// Send sends a Call.
func (c *Conn) Send(call Call) error {
	b, err := json.Marshal(call)
	if err != nil {
		return fmt.Errorf("varlink: encode call of %s: %w", call.Method, err)
	}
	if _, err := c.rw.Write(append(b, 0)); err != nil {
		return fmt.Errorf("varlink: call %s: %w", call.Method, err)
	}
	return nil
}

// Receive waits for a reply. Its error is io.EOF where the other side has closed the connection, and an *Error where the call
// failed; it wraps ErrTooLong or ErrMalformed where one message is no good. Close ends the wait.
func (c *Conn) Receive() (Reply, error) {
	b, err := c.in.Next()
	if err != nil {
		return Reply{}, err
	}
	return ParseReply(b)
}

// Close closes the connection. It may be called at any time, and more than once.
func (c *Conn) Close() error {
	if err := c.rw.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("varlink: close: %w", err)
	}
	return nil
}

// ParseReply reads one message. Its error is an *Error where that is one, or wraps ErrMalformed. The Reply keeps b.
func ParseReply(b []byte) (Reply, error) {
	var m struct {
		Reply
		Error string `json:"error"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return Reply{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if p := bytes.TrimSpace(m.Parameters); len(p) > 0 && p[0] != '{' && !bytes.Equal(p, []byte("null")) {
		return Reply{}, fmt.Errorf("%w: parameters are not an object", ErrMalformed)
	}
	if m.Error != "" {
		return Reply{}, &Error{Name: m.Error, Parameters: m.Parameters}
	}
	return m.Reply, nil
}

// Reader cuts a stream into messages.
type Reader struct {
	r *bufio.Reader
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 64<<10)} }

// Next returns the next message, without its NUL byte. The bytes are the caller's. Its error is io.EOF at the end of the stream,
// io.ErrUnexpectedEOF in the middle of a message, and wraps ErrTooLong for a message that was skipped.
func (r *Reader) Next() ([]byte, error) {
	var message []byte
	for length := 0; ; {
		part, err := r.r.ReadSlice(0)
		length += len(part)
		if length <= MaxMessage+1 {
			message = append(message, part...)
		} else {
			message = nil
		}
		switch {
		case err == nil && message == nil:
			return nil, fmt.Errorf("%w: %d bytes", ErrTooLong, length)
		case err == nil:
			return message[:len(message)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && length > 0:
			return nil, io.ErrUnexpectedEOF
		case errors.Is(err, io.EOF):
			return nil, io.EOF
		default:
			return nil, fmt.Errorf("varlink: receive: %w", err)
		}
	}
}
