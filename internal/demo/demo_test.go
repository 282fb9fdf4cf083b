package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
)

func TestStage(t *testing.T) {
	testutil.NoLeaks(t)
	var order []string
	s := &stage{}
	s.perform(func() {
		s.Cleanup(func() {
			s.Cleanup(func() { order = append(order, "late") })
			order = append(order, "first")
		})
		s.Cleanup(func() { order = append(order, "second") })
		s.Errorf("not %s", "good")
		s.Fatalf("over")
		order = append(order, "went on")
	})
	if want := []string{"second", "first", "late"}; !slices.Equal(order, want) {
		t.Errorf("got %q; want %q", order, want)
	}
	if err := s.err(); err == nil || err.Error() != "not good\nover" || !s.Failed() {
		t.Errorf("got %v; want both failures", err)
	}
}

func TestStageWithoutFailures(t *testing.T) {
	s := &stage{}
	s.perform(func() {})
	if err := s.err(); err != nil || s.Failed() {
		t.Errorf("got %v; want success", err)
	}
}

func TestAudienceLeaves(t *testing.T) {
	r, w := io.Pipe()
	left := 0
	s := &screen{w: &audience{w, func() { left++ }}, width: plainWidth}
	go s.line()
	if _, err := r.Read(make([]byte, 1)); err != nil || left != 0 {
		t.Errorf("got %v, %d times left; want neither", err, left)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	s.line()
	if left != 1 {
		t.Errorf("got %d times left; want 1", left)
	}
}

func TestRow(t *testing.T) {
	for _, tt := range []struct {
		name   string
		screen screen
		cells  []cell
		want   string
	}{
		{"short", screen{width: 40}, []cell{{"a", plain}, {"b", plain}, {"c", plain}}, "  a     b       c\n"},
		{
			"wrapped", screen{width: 34}, []cell{{"a", plain}, {"one two three", plain}, {"the rest is all of it", plain}},
			"  a     one     the rest is all of\n        two     it\n        three\n",
		},
		{"a long word", screen{width: 40}, []cell{{"ab", red}, {"123456789", red}, {"", red}}, "  ab    12345…\n"},
		{"colours", screen{width: 40, colours: true}, []cell{{"a", red}, {"b", plain}}, "  \x1b[31ma\x1b[0m     b\n"},
	} {
		var out strings.Builder
		tt.screen.w = &out
		tt.screen.row([]column{4, 6, 0}, tt.cells...)
		if got := out.String(); got != tt.want {
			t.Errorf("%s: got\n%q; want\n%q", tt.name, got, tt.want)
		}
	}
}

// The picture has an address of fixed width in each gap: no line may be longer than another.
func TestPicture(t *testing.T) {
	for _, width := range []int{80, 120} {
		var out strings.Builder
		draw(&screen{w: &out, width: width})
		ends := map[int]bool{}
		for i, line := range strings.Split(strings.TrimRight(out.String(), "\n"), "\n") {
			n := len([]rune(line))
			if i > 0 {
				ends[n] = true
			}
			if n > width {
				t.Errorf("width %d: a line has %d columns", width, n)
			}
		}
		if len(ends) != 1 {
			t.Errorf("width %d: the frame is crooked:\n%s", width, out.String())
		}
	}
}

func TestSights(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sight sight
		r     result
		want  outcome
		text  string
	}{
		{"curl", curlSight, result{output: "200"}, answered, "HTTP 200"},
		{"curl refused", curlSight, result{exit: 7, output: "curl: (7) ..."}, refused, "exit 7: cannot connect"},
		{"curl silence", curlSight, result{exit: 28}, silence, "exit 28: timed out"},
		{"curl cut", curlSight, result{exit: 56}, refused, "exit 56: connection aborted"},
		{"curl killed", curlSight, result{exit: -1, output: "one\ntwo"}, strange, "exit -1: two"},
		{"nc", ncSight, result{output: "succeeded!"}, answered, "connected"},
		{
			"nc refused", ncSight, result{exit: 1, output: "nc: connect to x port 1 (tcp) failed: No route to host\nnc: again"},
			refused, "exit 1: No route to host",
		},
		{
			"nc silence", ncSight, result{exit: 1, output: "nc: connect to x port 1 (tcp) timed out: Operation now in progress"},
			silence, "exit 1: timed out",
		},
		{"nc missing", ncSight, result{exit: 127, output: "no nc"}, strange, "exit 127: no nc"},
		{"dig", digSight, result{output: "192.0.2.1"}, answered, "answer: 192.0.2.1"},
		{"dig refused", digSight, result{exit: 9, output: ";; communications error: host unreachable"}, refused, "exit 9: unreachable"},
		{"dig silence", digSight, result{exit: 9, output: ";; communications error: timed out"}, silence, "exit 9: timed out"},
		{"ping", pingSight, result{output: "3 packets transmitted, 3 received, 0% loss"}, answered, "3 of 3 answered"},
		{"ping silence", pingSight, result{exit: 1, output: "3 packets transmitted, 0 received"}, silence, "exit 1: 0 of 3 answered"},
		{"ping without a network", pingSight, result{exit: 2, output: "ping: what?"}, strange, "exit 2: ping: what?"},
	} {
		if got, text := tt.sight(tt.r); got != tt.want || text != tt.text {
			t.Errorf("%s: got %s, %q; want %s, %q", tt.name, got, text, tt.want, tt.text)
		}
	}
}
