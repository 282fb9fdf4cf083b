package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/weirfw/weir/pkg/filterlist"
	"github.com/weirfw/weir/pkg/rules"
)

// Lists are the files of each list, by its name.
type Lists map[string][]string

// Names returns the names, sorted.
func (l Lists) Names() []string { return slices.Sorted(maps.Keys(l)) }

// Files returns all files, each once.
func (l Lists) Files() (all []string) {
	for _, name := range l.Names() {
		for _, file := range l[name] {
			if !slices.Contains(all, file) {
				all = append(all, file)
			}
		}
	}
	return all
}

// ReadLists reads the files of a list into one.
func ReadLists(files []string) (*filterlist.List, error) {
	readers := make([]io.Reader, 0, len(files))
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return nil, err //nolint:wrapcheck // it names the file
		}
		defer f.Close() //nolint:errcheck // only read
		readers = append(readers, f)
	}
	return filterlist.Parse(readers...) //nolint:wrapcheck // it says what it is about
}

// readLists reads all lists; those that cannot be read are found to be bad, and empty.
func (l *Loaded) readLists() (found []value) {
	l.Read = map[string]*filterlist.List{}
	for _, name := range l.Lists.Names() {
		list, err := ReadLists(l.Lists[name])
		path := "lists." + name
		switch {
		case errors.Is(err, filterlist.ErrTooLarge):
			found = append(found, value{path, err.Error(), "make several lists of it"})
		case err != nil:
			found = append(found, value{path, err.Error(), "write the paths of files that refd can read"})
		case len(name) == 0:
			found = append(found, value{"lists", "a list without a name", "give it one, so that rules can refer to it"})
		}
		l.Read[name] = list
	}
	return found
}

// mistaken finds lines of lists that are no entries.
func (l *Loaded) mistaken() (found []value) {
	for _, name := range l.Lists.Names() {
		m := l.Read[name].Mistakes()
		if m.Lines == 0 {
			continue
		}
		first := m.First[0]
		found = append(found, value{
			"lists." + name, fmt.Sprintf("%d of its lines are left out; line %d is %q: %s", m.Lines, first.Line, first.Text, first.Why),
			"see package filterlist for what lists can have",
		})
	}
	return found
}

// WithLists compiles the rules again with lists that have changed. l stays as it is.
func (l *Loaded) WithLists(read map[string]*filterlist.List, opts ...rules.Option) (*Loaded, error) {
	next := *l
	next.Read = read
	set, err := next.compile(opts...)
	if err != nil {
		return nil, fmt.Errorf("compile rules: %w", err)
	}
	next.Rules = set
	return &next, nil
}
