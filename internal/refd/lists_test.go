package refd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/filterlist"
	"github.com/weirfw/weir/pkg/module"
)

func TestListsAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	ads, more, other := filepath.Join(dir, "ads"), filepath.Join(dir, "more"), filepath.Join(dir, "other")
	at := time.Now()
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Second) // whatever the clock of the file system
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write(ads, "a.test\n")
	write(more, "b.test\n")
	write(other, "c.test\n")
	lists := config.Lists{"ads": {ads, more}, "other": {other}}
	read := map[string]*filterlist.List{"ads": nil, "other": nil}
	uses, refuse := 0, error(nil)
	w := &listWatch{
		states: module.NewStates("lists"), loaded: map[string]stamp{},
		lists: func() (config.Lists, map[string]*filterlist.List) { return lists, read },
		use: func(_ context.Context, next map[string]*filterlist.List) error {
			uses++
			if refuse == nil {
				read = next
			}
			return refuse
		},
	}
	look := func(times, want int) {
		t.Helper()
		for range times {
			w.look(t.Context())
		}
		if uses != want {
			t.Fatalf("got %d uses; want %d", uses, want)
		}
	}
	look(3, 0)
	write(more, "b2.test\n")
	look(1, 0) // it may not be done
	look(1, 1)
	look(2, 1)
	if !read["ads"].HasName("a.test") || !read["ads"].HasName("b2.test") || read["ads"].HasName("b.test") || read["other"] != nil {
		t.Error("not what is in the files")
	}
	write(more, "b3.test\n")
	look(1, 1)
	write(more, "b4.test\n") // still at it
	look(1, 1)
	look(1, 2)
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	look(2, 2)
	if s := w.states.All(); len(s) != 1 || !strings.Contains(s[0].Message, "other stays as it was") {
		t.Errorf("got %+v; want that the list cannot be read", s)
	}
	write(other, "d.test\n")
	look(2, 3)
	if s := w.states.All(); len(s) != 0 || !read["other"].HasName("d.test") {
		t.Errorf("got %+v; want it read, and no state", s)
	}
	refuse = errors.New("does not compile")
	write(ads, "e.test\n")
	look(3, 5) // and again, until it works
	refuse = nil
	look(1, 6)
	look(1, 6)
	lists = config.Lists{"new": {ads}}
	look(2, 6) // whoever brought it has read it
}
