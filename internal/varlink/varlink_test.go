package varlink_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/weirfw/weir/internal/varlink"
)

// read returns everything that a stream has to say, a line for each message.
func read(r io.Reader) (lines []string) {
	in := varlink.NewReader(r)
	for {
		b, err := in.Next()
		switch {
		case errors.Is(err, varlink.ErrTooLong):
			lines = append(lines, "too long")
		case err != nil:
			return append(lines, err.Error())
		default:
			lines = append(lines, fmt.Sprintf("%d %.9s", len(b), b))
		}
	}
}

func TestReader(t *testing.T) {
	long := strings.Repeat("x", varlink.MaxMessage)
	for name, tt := range map[string]struct{ stream, want string }{
		"nothing":            {"", "EOF"},
		"messages":           {"{}\x00{\"a\":1}\x00\x00", "2 {}|7 {\"a\":1}|0 |EOF"},
		"cut off":            {"{}\x00{\"a\"", "2 {}|unexpected EOF"},
		"longer than buffer": {strings.Repeat("y", 200_000) + "\x00z\x00", "200000 yyyyyyyyy|1 z|EOF"},
		"longest":            {long + "\x00z\x00", fmt.Sprintf("%d xxxxxxxxx|1 z|EOF", varlink.MaxMessage)},
		"too long":           {long + "x\x00z\x00", "too long|1 z|EOF"},
		"too long, cut off":  {long + long, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(read(strings.NewReader(tt.stream)), "|"); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if len(tt.stream) > 1000 {
				return
			}
			if got := strings.Join(read(iotest.OneByteReader(strings.NewReader(tt.stream))), "|"); got != tt.want {
				t.Errorf("a byte at a time: got  %s\nwant %s", got, tt.want)
			}
		})
	}
	broken := errors.New("broken")
	if _, err := varlink.NewReader(iotest.ErrReader(broken)).Next(); !errors.Is(err, broken) {
		t.Errorf("got %v; want the stream's error", err)
	}
}

func TestParseReply(t *testing.T) {
	for text, want := range map[string]string{
		`{"parameters":{"ready":true},"continues":true}`: `{"ready":true} true`,
		`{}`:                  ` false`,
		`{"parameters":null}`: `null false`,
		`{"parameters":{},"unknown":[1],"continues":false}`:                            `{} false`,
		`{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"x.Y"}}`: `error org.varlink.service.MethodNotFound {"method":"x.Y"}`,
		`{"error":"io.systemd.InteractiveAuthenticationRequired","parameters":{}}`:     `error io.systemd.InteractiveAuthenticationRequired`,
		`{"parameters":[]}`:   `malformed`,
		`{"parameters":7}`:    `malformed`,
		`{"continues":"yes"}`: `malformed`,
		`[]`:                  `malformed`,
		``:                    `malformed`,
		`{`:                   `malformed`,
	} {
		r, err := varlink.ParseReply([]byte(text))
		got := fmt.Sprintf("%s %v", r.Parameters, r.Continues)
		var e *varlink.Error
		switch {
		case errors.As(err, &e):
			got = "error " + err.Error()
		case errors.Is(err, varlink.ErrMalformed):
			got = "malformed"
		case err != nil:
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s; want %s", text, got, want)
		}
	}
}

// What comes out of a stream are its parts between NUL bytes, however they are cut, and nothing in them brings the parser down.
func FuzzReader(f *testing.F) {
	f.Add([]byte("{\"parameters\":{\"ready\":true},\"continues\":true}\x00{}\x00"))
	f.Add([]byte("{\"error\":\"a.B\",\"parameters\":{\"x\":[1,2]}}\x00\x00[]\x00{"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		in := varlink.NewReader(iotest.HalfReader(bytes.NewReader(stream)))
		parts := bytes.Split(stream, []byte{0})
		for _, want := range parts[:len(parts)-1] {
			b, err := in.Next()
			if err != nil || !bytes.Equal(b, want) {
				t.Fatalf("got %q, %v; want %q", b, err, want)
			}
			if r, err := varlink.ParseReply(b); err != nil && (r.Parameters != nil || r.Continues) {
				t.Fatalf("%q: got %v and %v", b, r, err)
			}
		}
		want := io.EOF
		if len(parts[len(parts)-1]) > 0 {
			want = io.ErrUnexpectedEOF
		}
		if _, err := in.Next(); !errors.Is(err, want) {
			t.Fatalf("at the end: got %v; want %v", err, want)
		}
	})
}
