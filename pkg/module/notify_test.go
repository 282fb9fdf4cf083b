package module_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

func TestNotifications(t *testing.T) {
	bubble(t, func(t *testing.T) {
		root, a, b, _ := tree(t)
		board := module.NewNotifications(nil)
		changes := board.Changes().Subscribe("test", 100)
		stopWatch := board.Watch(root)
		begin := time.Now()
		raise := func() {
			a.States().Add(module.State{ID: "x", Name: "Title", Message: "text", Severity: module.Warning})
		}
		raise()
		want := module.Notification{Module: "a", ID: "x", Severity: module.Warning, Title: "Title", Message: "text", Time: begin}
		equal(t, []module.Notification{want}, board.All(), "same ID and severity")

		mustNoError(t, board.Dismiss("a", "x"))
		mustNoError(t, board.Dismiss("a", "x"))
		empty(t, board.All())
		mustLen(t, a.States().All(), 1, "dismissing keeps the state")
		a.States().Add(module.State{ID: "other"})
		a.States().Remove("other")
		empty(t, board.All(), "other states do not bring it back")
		raise()
		equal(t, []module.Notification{want}, board.All(), "a re-raise shows it again, even at the same time")

		a.States().Update(module.State{ID: "x", Name: "Title", Message: "new text", Severity: module.Error})
		equal(t, "new text", board.All()[0].Message)
		b.States().Add(module.State{ID: "x"})
		mustLen(t, board.All(), 2, "the same ID in another module is another one")
		a.States().Remove("x")
		equal(t, "b", board.All()[0].Module, "removed with the state")
		errorIs(t, board.Dismiss("a", "x"), module.ErrNoNotification)

		stopWatch()
		b.States().Clear()
		mustLen(t, board.All(), 1, "not watching any more")
		changes.Cancel()
		var got []string
		for c := range changes.C() {
			got = append(got, c.Kind.String()+" "+c.Notification.Module+"."+c.Notification.ID)
		}
		equal(t, []string{
			"shown a.x", "dismissed a.x", "shown a.other", "gone a.other", "shown a.x", "changed a.x", "shown b.x", "gone a.x",
		}, got)
	})
}

func TestNotificationsWorstFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{Name: "m"})
		v := newUnit(t, module.Config{Name: "a"})
		board := module.NewNotifications(nil)
		defer board.Watch(newGroup(t, "g", u, v))()
		u.States().Add(module.State{ID: "1", Severity: module.Hint})
		time.Sleep(time.Second)
		u.States().Add(module.State{ID: "2", Severity: module.Hint})
		u.States().Add(module.State{ID: "0", Severity: module.Hint})
		v.States().Add(module.State{ID: "9", Severity: module.Hint})
		u.States().Add(module.State{ID: "3", Severity: module.Error})
		var got string
		for _, n := range board.All() {
			got += n.ID
		}
		equal(t, "39021", got)
	})
}

func TestNotificationAsJSON(t *testing.T) {
	b, err := json.Marshal(module.NotificationChange{Kind: module.Gone, Notification: module.Notification{
		Module: "m", ID: "i", Severity: module.Hint, Title: "n", Message: "t", Time: time.Unix(0, 0).UTC(),
	}})
	mustNoError(t, err)
	equal(t, `{"kind":"gone","notification":{"module":"m","id":"i","severity":"hint","title":"n","message":"t",`+
		`"time":"1970-01-01T00:00:00Z"}}`, string(b))
}
