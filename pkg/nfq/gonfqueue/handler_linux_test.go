package gonfqueue_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	nfqueue "github.com/florianl/go-nfqueue/v2"

	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/nfq/gonfqueue"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

func TestNew(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  gonfqueue.Config
		want error
	}{
		{"zero", gonfqueue.Config{}, nil},
		{"negative timeout", gonfqueue.Config{Timeout: -1}, nfq.ErrBadConfig},
		{"negative buffer", gonfqueue.Config{ReceiveBuffer: -1}, nfq.ErrBadConfig},
		{"marks used twice", gonfqueue.Config{Marks: nfq.Marks{Accept: 1, Block: 1}}, nfq.ErrBadMarks},
	} {
		t.Run(test.name, func(t *testing.T) {
			if runtime.GOOS != "linux" {
				test.want = errors.ErrUnsupported
			}
			_, err := gonfqueue.New(test.cfg)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v; want %v", err, test.want)
			}
			if runtime.GOOS != "linux" && !strings.Contains(err.Error(), runtime.GOOS) {
				t.Errorf("got %v; want it to name %s", err, runtime.GOOS)
			}
		})
	}
}

func TestRunWithContextDone(t *testing.T) {
	s, err := gonfqueue.New(gonfqueue.Config{})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx, web{}, func() { t.Error("ready was called") }); err != nil {
		t.Errorf("got %v; want nil", err)
	}
}

// web lets connections to web servers pass, and nothing else.
type web struct{}

func (web) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	if i.Direction == packet.Outbound && i.Remote.Port() == 443 {
		return verdict.ActionAccept, 0, true
	}
	return 0, 0, false
}

func (web) Handle(p packet.Packet) { _ = p.Drop() }

// The rules that feed the queue:
//
//	iptables -t mangle -A OUTPUT -p tcp -j NFQUEUE --queue-num 100
func Example() {
	source, err := gonfqueue.New(gonfqueue.Config{Queue: nfqueue.Config{NfQueue: 100}})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a program would do this at its end
	if err := source.Run(ctx, web{}, nil); err != nil {
		panic(err)
	}
	// Output:
}
