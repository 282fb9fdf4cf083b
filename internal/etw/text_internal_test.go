package etw

import (
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "",
		"a\x00b\x00\x00\x00":                   "ab",
		"a\x00b\x00":                           "ab", // without an end
		"a\x00b":                               "a",  // half a character
		"\x00\x00a\x00":                        "",
		"\xe4\x00\x00\x00":                     "ä",
		"\x3d\xd8\x00\xde\x00\x00":             "😀",
		"\x3d\xd8a\x00":                        "\uFFFDa", // half a pair
		strings.Repeat("x\x00", maxProperty/2): strings.Repeat("x", maxProperty/2),
	} {
		if got := text([]byte(in)); got != want {
			t.Errorf("%.40q: got %.40q; want %.40q", in, got, want)
		}
	}
}

func TestFiletime(t *testing.T) {
	if got, want := filetime(133800768001234567), time.Date(2024, 12, 31, 0, 0, 0, 123456700, time.UTC); !got.Equal(want) {
		t.Errorf("got %v; want %v", got.UTC(), want)
	}
	for _, none := range []int64{0, -1, epoch - 1} {
		if got := filetime(none); !got.IsZero() {
			t.Errorf("%d: got %v; want the zero time", none, got)
		}
	}
}

func TestCheck(t *testing.T) {
	good := Config{Session: "weir", Properties: []string{"QueryName"}, Event: func(Event) {}}
	if err := good.check(); err != nil {
		t.Errorf("got %v; want nil", err)
	}
	for what, change := range map[string]func(*Config){
		"no session":        func(c *Config) { c.Session = "" },
		"long session":      func(c *Config) { c.Session = strings.Repeat("x", 101) },
		"zero in session":   func(c *Config) { c.Session = "a\x00" },
		"no properties":     func(c *Config) { c.Properties = nil },
		"nameless property": func(c *Config) { c.Properties = []string{""} },
		"no function":       func(c *Config) { c.Event = nil },
	} {
		c := good
		change(&c)
		if err := c.check(); err == nil {
			t.Errorf("%s: got nil; want an error", what)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add([]byte("e\x00x\x00a\x00m\x00p\x00l\x00e\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := text(b)
		if !utf8.ValidString(s) || len(s) > 3*len(b)/2 || strings.ContainsRune(s, 0) {
			t.Fatalf("got %q", s)
		}
		var again []byte
		for _, u := range utf16.Encode([]rune(s)) {
			again = append(again, byte(u), byte(u>>8))
		}
		if got := text(again); got != s {
			t.Fatalf("got %q; want %q", got, s)
		}
	})
}
