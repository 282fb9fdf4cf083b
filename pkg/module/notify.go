package module

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Notification is a [State] as shown to people.
type Notification struct {
	// Module and ID are those of the state.
	Module string `json:"module"`
	ID     string `json:"id"`
	// Severity is that of the state.
	Severity Severity `json:"severity"`
	// Title is the state's name.
	Title string `json:"title"`
	// Message is that of the state.
	Message string `json:"message"`
	// Time is when the state began.
	Time time.Time `json:"time"`
}

// NewNotification returns the notification for a state.
func NewNotification(s State) Notification {
	return Notification{
		Module: s.Module, ID: s.ID, Severity: s.Severity, Title: s.Name, Message: s.Message, Time: s.Time,
	}
}

// NoticeKind says what happened to a [Notification].
type NoticeKind uint8

// The kinds of changes.
const (
	// Shown: it is new, or was raised again.
	Shown NoticeKind = 1
	// Changed: its text or severity is another one.
	Changed NoticeKind = 2
	// Gone: its state has ended.
	Gone NoticeKind = 3
	// Dismissed: somebody does not want to see it; the state goes on.
	Dismissed NoticeKind = 4
)

// String returns the kind in lower case.
func (k NoticeKind) String() string {
	switch k {
	case Shown:
		return "shown"
	case Changed:
		return "changed"
	case Gone:
		return "gone"
	case Dismissed:
		return "dismissed"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MarshalText implements encoding.TextMarshaler.
func (k NoticeKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// NotificationChange is what subscribers of [Notifications.Changes] hear.
type NotificationChange struct {
	Kind         NoticeKind   `json:"kind"`
	Notification Notification `json:"notification"`
}

// noticeKey is what makes a notification unique.
type noticeKey struct{ module, id string }

type notice struct {
	Notification
	dismissed bool
}

// Notifications shows the states of modules to people. Each state has one notification, which ends with it.
type Notifications struct {
	changes *Event[NotificationChange]
	out     line[NotificationChange]

	mu   sync.Mutex // guards list
	list map[noticeKey]*notice
}

// NewNotifications returns an empty board. The logger is optional.
func NewNotifications(log *slog.Logger) *Notifications {
	n := &Notifications{
		changes: NewEvent[NotificationChange]("notifications", log),
		list:    make(map[noticeKey]*notice),
	}
	n.out.fn = n.changes.Submit
	return n
}

// Changes is the event of all that happens to notifications, in order.
func (n *Notifications) Changes() *Event[NotificationChange] { return n.changes }

// Watch shows the states of m and of all modules in it from now on.
func (n *Notifications) Watch(m Module) (stop func()) { return WatchStates(m, n.Update) }

// Update takes over the states of one module. It is what [Notifications.Watch] calls.
func (n *Notifications) Update(u StateUpdate) {
	n.mu.Lock()
	for _, s := range u.States {
		n.putLocked(s, u.Raised)
	}
	for key, old := range n.list {
		if key.module == u.Module && !slices.ContainsFunc(u.States, func(s State) bool { return s.ID == key.id }) {
			delete(n.list, key)
			n.out.push(NotificationChange{Gone, old.Notification})
		}
	}
	n.mu.Unlock()
	n.out.serve()
}

// putLocked takes over one state. Dismissed ones follow silently, so that they are right when they are raised again.
func (n *Notifications) putLocked(s State, raised string) {
	key, now := noticeKey{s.Module, s.ID}, NewNotification(s)
	old := n.list[key]
	switch {
	case old == nil, s.ID == raised:
		n.list[key] = &notice{Notification: now}
		n.out.push(NotificationChange{Shown, now})
	case old.Notification != now:
		old.Notification = now
		if !old.dismissed {
			n.out.push(NotificationChange{Changed, now})
		}
	}
}

// Dismiss hides a notification until its state is raised again. The state itself is left alone. It returns
// [ErrNoNotification] if there is none.
func (n *Notifications) Dismiss(module, id string) error {
	n.mu.Lock()
	it := n.list[noticeKey{module, id}]
	if it == nil {
		n.mu.Unlock()
		return fmt.Errorf("dismiss %s of %s: %w", id, module, ErrNoNotification)
	}
	if !it.dismissed {
		it.dismissed = true
		n.out.push(NotificationChange{Dismissed, it.Notification})
	}
	n.mu.Unlock()
	n.out.serve()
	return nil
}

// All returns what is shown: worst first, then newest first.
func (n *Notifications) All() []Notification {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []Notification
	for _, it := range n.list {
		if !it.dismissed {
			all = append(all, it.Notification)
		}
	}
	slices.SortFunc(all, compareNotifications)
	return all
}

func compareNotifications(a, b Notification) int {
	switch {
	case a.Severity.Worse(b.Severity):
		return -1
	case b.Severity.Worse(a.Severity):
		return 1
	case !a.Time.Equal(b.Time):
		return b.Time.Compare(a.Time)
	case a.Module != b.Module:
		return strings.Compare(a.Module, b.Module)
	}
	return strings.Compare(a.ID, b.ID)
}
