package procinfo

import "testing"

// FuzzDirents walks what getdents64 fills a buffer with.
func FuzzDirents(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x18\x00\x0a17\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		seen := 0
		eachNumber(b, func(n int) bool {
			if n < 0 {
				t.Fatalf("got %d; want no negative number", n)
			}
			seen++
			return true
		})
		if most := len(b) / 20; seen > most {
			t.Fatalf("got %d entries of %d bytes; want %d at most", seen, len(b), most)
		}
	})
}
