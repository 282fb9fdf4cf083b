package refd

import (
	"context"
	"fmt"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/module"
)

// noticeActions are what can be done about states by their ids.
func (b backend) noticeActions(id string) map[string]noticeAction {
	switch id {
	case "pause/interception":
		return map[string]noticeAction{"resume": {"Resume now", b.Resume}}
	case ivpn.ConditionDetected:
		return map[string]noticeAction{"never": {"Do not show again", func(ctx context.Context) error {
			_, err := b.ChangeSettings(ctx, api.ChangeRequest{Set: map[string]any{"ivpn.notice": false}})
			return err
		}}}
	}
	return nil
}

type noticeAction struct {
	title string
	do    func(ctx context.Context) error
}

// Notifications implements api.Backend.
func (b backend) Notifications(context.Context) ([]api.Notification, error) {
	list := []api.Notification{}
	for _, n := range b.d.notices.All() {
		a := api.Notification{Module: n.Module, ID: n.ID, Severity: n.Severity, Title: n.Title, Message: n.Message, Time: n.Time}
		for id, action := range b.noticeActions(n.ID) {
			a.Actions = append(a.Actions, api.NotificationAction{ID: id, Title: action.title})
		}
		list = append(list, a)
	}
	return list, nil
}

// Dismiss implements api.Backend.
func (b backend) Dismiss(_ context.Context, r api.NoticeRequest) error {
	if err := b.d.notices.Dismiss(r.Module, r.ID); err != nil {
		return fmt.Errorf("%w: %w", api.ErrNotFound, err)
	}
	return nil
}

// Act implements api.Backend.
func (b backend) Act(ctx context.Context, r api.NoticeRequest) error {
	action, ok := b.noticeActions(r.ID)[r.Action]
	if !ok {
		return fmt.Errorf("action %q of %q: %w", r.Action, r.ID, api.ErrNotFound)
	}
	return action.do(ctx)
}

// Sleep implements api.Backend.
func (b backend) Sleep(_ context.Context, r api.SleepRequest) error {
	mode := module.Awake
	if r.On {
		mode = module.Asleep
	}
	b.d.root.SetSleep(mode)
	b.d.log.Info("sleep mode", "mode", mode)
	return nil
}
