package connstore_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/verdict"
)

func ids(p connstore.Page) (got []int) {
	for _, s := range p.Connections {
		got = append(got, int(s.ID))
	}
	return got
}

// lookup is the record of a query for that name.
func lookup(domain string, at time.Time) conn.Snapshot {
	return conn.Snapshot{Domain: domain, Started: at, Query: &conn.Query{Type: "A"}, Decision: verdict.Decision{Verdict: verdict.Accept}}
}

func TestQueriesAreRecordsOfTheirOwnKind(t *testing.T) {
	var ended []string
	l := connstore.NewLive(connstore.Config{QueryOver: func(s conn.Snapshot) { ended = append(ended, s.Domain) }})
	add(t, l, key(1), verdict.Accept, epoch())
	waits := lookup("waits.test", epoch())
	id := l.PutQuery(waits)
	done := lookup("done.test", epoch())
	done.Ended = after(time.Second)
	l.PutQuery(done)
	if l.Len() != 1 {
		t.Errorf("got %d live connections; want 1: queries are none", l.Len())
	}
	for _, tt := range []struct {
		q    connstore.Query
		want []int
	}{
		{connstore.Query{}, []int{3, 2, 1}},
		{connstore.Query{Kind: connstore.OnlyConnections}, []int{1}},
		{connstore.Query{Kind: connstore.OnlyQueries}, []int{3, 2}},
		{connstore.Query{Life: connstore.OnlyLive}, []int{2, 1}},
		{connstore.Query{Domain: "DONE"}, []int{3}},
	} {
		if got := ids(l.Query(tt.q)); !slices.Equal(got, tt.want) {
			t.Errorf("%+v: got %v; want %v", tt.q, got, tt.want)
		}
	}
	waits.ID, waits.Ended = id, after(time.Minute)
	if again := l.PutQuery(waits); again != id {
		t.Errorf("got ID %d; want %d again", again, id)
	}
	if got := ids(l.Query(connstore.Query{Life: connstore.OnlyEnded})); !slices.Equal(got, []int{3, 2}) {
		t.Errorf("answered: got %v ended; want 3 and 2", got)
	}
	if !slices.Equal(ended, []string{"done.test", "waits.test"}) {
		t.Errorf("told of %q; want both, in the order of their ends", ended)
	}
}

func TestQueriesAreBounded(t *testing.T) {
	l := connstore.NewLive(connstore.Config{MaxQueries: 3, KeepEnded: time.Minute})
	for n := range 5 {
		l.PutQuery(lookup("a.test", after(time.Duration(n)*time.Second)))
	}
	all := connstore.Query{Kind: connstore.OnlyQueries}
	if got := ids(l.Query(all)); !slices.Equal(got, []int{5, 4, 3}) {
		t.Errorf("got %v; want the newest three", got)
	}
	for _, id := range []conn.ID{1, 5, 4} { // the first is gone, and stays so
		s := lookup("b.test", after(time.Minute))
		s.ID = id
		l.PutQuery(s)
	}
	if got := ids(l.Query(connstore.Query{Domain: "b.test"})); !slices.Equal(got, []int{5, 4}) {
		t.Errorf("got %v replaced; want 5 and 4", got)
	}
	l.Prune(after(time.Minute + 3*time.Second))
	if got := ids(l.Query(all)); !slices.Equal(got, []int{5, 4}) {
		t.Errorf("got %v; want those that are young enough", got)
	}
	l.PutQuery(lookup("c.test", after(time.Minute)))
	if got := ids(l.Query(all)); !slices.Equal(got, []int{6, 5, 4}) {
		t.Errorf("got %v; want one more", got)
	}
	none := connstore.NewLive(connstore.Config{MaxQueries: -1})
	if id := none.PutQuery(lookup("a.test", epoch())); id != 1 || none.Query(all).Total != 0 {
		t.Errorf("got query %d, kept though none is wanted", id)
	}
}

// Who keeps records for good is told of each, with its number, and again when it changed.
func TestQueriesAreTold(t *testing.T) {
	l := connstore.NewLive(connstore.Config{MaxQueries: -1})
	var told []string
	note := func(s *conn.Snapshot) { told = append(told, fmt.Sprint(s.ID, s.Domain, s.Live())) }
	l.OnQuery(note)
	s := lookup("a.test", epoch())
	l.PutQuery(lookup("b.test", epoch()))
	s.ID = l.PutQuery(s)
	s.Ended = after(time.Second)
	l.PutQuery(s)
	if want := []string{"1b.testtrue", "2a.testtrue", "2a.testfalse"}; !slices.Equal(told, want) {
		t.Errorf("got %q; want %q", told, want)
	}
}
