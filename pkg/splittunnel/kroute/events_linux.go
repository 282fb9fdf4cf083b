package kroute

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// run begins to receive, until close. It only marks, so that the socket is always being emptied.
func (v *events) run(ctx context.Context, log *slog.Logger) {
	v.ended = make(chan struct{})
	go func() {
		defer close(v.ended)
		for {
			lost, err := v.receive()
			if err != nil {
				if ctx.Err() == nil {
					v.failed <- fmt.Errorf("kroute: receive events: %w", err)
				}
				return
			}
			if lost {
				log.WarnContext(ctx, "routing events were lost; reading everything")
			}
			select {
			case v.dirty <- struct{}{}:
			default:
			}
		}
	}()
}

// receive returns when an event concerns us, or some were lost.
func (v *events) receive() (lost bool, err error) {
	for {
		msgs, err := v.conn.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			return true, nil // the socket goes on working; only what did not fit is gone
		case err != nil:
			return false, err //nolint:wrapcheck // run says what it was
		}
		for _, m := range msgs {
			if v.concerns(m) {
				return false, nil
			}
		}
	}
}

// concerns reports whether an event can be about what is ours. In doubt it says yes.
func (v *events) concerns(m netlink.Message) bool {
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		s, err := decodeRoute(m.Data)
		return err != nil || !s.cloned && v.span.hasTable(s.table)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		// anybody's may come to be in front of ours
		s, err := decodeRule(m.Data)
		return err != nil || s.priority <= v.span.Priority+1
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
		// struct ifinfomsg and struct ifaddrmsg have the index in the same place.
		if len(m.Data) < 8 {
			return true
		}
		w := v.watched.Load()
		if w == nil {
			return false
		}
		_, ours := (*w)[int(int32(binary.NativeEndian.Uint32(m.Data[4:])))]
		return ours
	default:
		return false
	}
}
