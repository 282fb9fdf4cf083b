package module

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Severity says how bad a [State] is.
type Severity uint8

// The severities. The numbers leave the process; which one is worse is said by [Severity.Worse].
const (
	// Fine is no trouble at all: the severity of no state. A state itself is a hint at least.
	Fine    Severity = 0
	Hint    Severity = 1
	Warning Severity = 2
	Error   Severity = 3
)

// String returns the severity in lower case.
func (s Severity) String() string {
	switch s {
	case Fine:
		return "fine"
	case Hint:
		return "hint"
	case Warning:
		return "warning"
	case Error:
		return "error"
	}
	return fmt.Sprintf("severity %d", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Severity) UnmarshalText(text []byte) error {
	for _, known := range []Severity{Fine, Hint, Warning, Error} {
		if string(text) == known.String() {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("unknown severity %q", text)
}

// Worse reports whether s is worse than other.
func (s Severity) Worse(other Severity) bool { return s.rank() > other.rank() }

// rank puts an unknown severity above all others: nobody knows how bad it is.
func (s Severity) rank() int {
	return 3 - slices.Index([]Severity{Error, Warning, Hint, Fine}, s)
}

// State says that something about a module is worth knowing, for as long as it lasts.
type State struct {
	// Module is the module's name; [States.Add] sets it.
	Module string `json:"module"`
	// ID tells the states of one module apart. Required. Those that begin with "worker/" are this package's.
	ID string `json:"id"`
	// Name is a short title for people.
	Name string `json:"name"`
	// Message says what is wrong and what to do about it, for people.
	Message string `json:"message"`
	// Severity is [Hint] if it is not set.
	Severity Severity `json:"severity"`
	// Time is when the state began; now if it is not set.
	Time time.Time `json:"time"`
	// Data is more for programs. Optional. It must not change later, and be fit for encoding/json.
	Data any `json:"data,omitempty"`
}

// StateUpdate tells about one change of a module's states.
type StateUpdate struct {
	// Module is the module's name.
	Module string
	// States are all states that the module has now, oldest first.
	States []State
	// Raised is the ID of the state that was added or raised again; empty for all other changes.
	Raised string
}

// Stateful is a [Module] that has states.
type Stateful interface {
	States() *States
}

// States are the states of one module. All methods may be called at any time, by anybody.
type States struct {
	module string

	mu       sync.Mutex // guards the fields below
	list     []State
	watchers []*line[StateUpdate]
}

// NewStates returns an empty set of states for the module. A [Unit] has its own.
func NewStates(module string) *States { return &States{module: module} }

// Add raises a state. It replaces one that has the same ID, and counts as raised again then.
func (s *States) Add(st State) {
	s.change(func() (string, bool) {
		s.putLocked(st)
		return st.ID, true
	})
}

// Update changes the state that has the same ID without raising it again: who has dismissed its notification is not
// told again. The time is that of the old one if it is not set. If there is none, it is raised.
func (s *States) Update(st State) {
	s.change(func() (string, bool) {
		raised := st.ID
		if i := s.indexLocked(st.ID); i >= 0 {
			raised = ""
			if st.Time.IsZero() {
				st.Time = s.list[i].Time
			}
		}
		s.putLocked(st)
		return raised, true
	})
}

// Remove ends the state that has this ID, if there is one.
func (s *States) Remove(id string) {
	s.change(func() (string, bool) {
		i := s.indexLocked(id)
		if i >= 0 {
			s.list = slices.Delete(s.list, i, i+1)
		}
		return "", i >= 0
	})
}

// Clear ends all states.
func (s *States) Clear() {
	s.change(func() (string, bool) {
		had := len(s.list) > 0
		s.list = nil
		return "", had
	})
}

// All returns a copy of all states, oldest first.
func (s *States) All() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

func (s *States) putLocked(st State) {
	st.Module = s.module
	if st.Severity == Fine {
		st.Severity = Hint
	}
	if st.Time.IsZero() {
		st.Time = time.Now()
	}
	if i := s.indexLocked(st.ID); i >= 0 {
		s.list[i] = st
		return
	}
	s.list = append(s.list, st)
}

func (s *States) indexLocked(id string) int {
	return slices.IndexFunc(s.list, func(st State) bool { return st.ID == id })
}

// change calls fn, which returns what it has raised and whether anything changed, and tells the watchers.
func (s *States) change(fn func() (raised string, changed bool)) {
	s.mu.Lock()
	raised, changed := fn()
	if !changed {
		s.mu.Unlock()
		return
	}
	watchers := slices.Clone(s.watchers)
	for _, w := range watchers {
		w.push(s.updateLocked(raised))
	}
	s.mu.Unlock()
	for _, w := range watchers {
		w.serve()
	}
}

// updateLocked makes a new copy each time, so that no watcher can spoil another one's.
func (s *States) updateLocked(raised string) StateUpdate {
	return StateUpdate{Module: s.module, States: slices.Clone(s.list), Raised: raised}
}

// watch adds a watcher, which is told at once if there are states.
func (s *States) watch(w *line[StateUpdate]) {
	s.mu.Lock()
	s.watchers = append(s.watchers, w)
	if len(s.list) > 0 {
		w.push(s.updateLocked(""))
	}
	s.mu.Unlock()
	w.serve()
}

func (s *States) unwatch(w *line[StateUpdate]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers = slices.DeleteFunc(s.watchers, func(o *line[StateUpdate]) bool { return o == w })
}
