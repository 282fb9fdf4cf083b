package firewall_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// deafSource cannot be told changed verdicts.
type deafSource struct {
	*source

	err error
}

func (s *deafSource) Update(packet.Tuple, verdict.Action, uint8) error { return s.err }

// A changed verdict that does not reach the kernel is an error for who asked, and a condition until it is half a minute ago; during a
// pause it is none.
func TestPushFails(t *testing.T) {
	refused := errors.New("netlink: not permitted")
	for _, tt := range []struct {
		name string
		err  error
		want []string
	}{
		{"refused", refused, []string{"push", "-push"}},
		{"pause", fmt.Errorf("update: %w", intercept.ErrNotRunning), nil},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			p, src := newPolicy(verdict.Accept), &deafSource{newSource(intercepttest.Config{}), tt.err}
			r := startOn(t, src.source, func(c *firewall.Config) {
				c.Source, c.Deciders = src, []firewall.Decider{p}
			})
			r.want(out(packet.TCP, 1, faraway), verdict.ActionPermanentAccept)
			p.set(says(verdict.Block))
			if changed, err := r.Reevaluate(t.Context(), firewall.Everything); changed != 1 || !errors.Is(err, tt.err) {
				t.Errorf("got %d changed, %v; want 1, and %v", changed, err, tt.err)
			}
			synctest.Wait()
			if len(tt.want) > 0 {
				r.wantConditions(tt.want[0])
			}
			time.Sleep(time.Minute) // of the bubble
			synctest.Wait()
			r.wantConditions(tt.want...)
		})
	}
}
