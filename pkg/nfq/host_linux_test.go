package nfq

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/intercept"
)

func TestIntegrationHostNFT(t *testing.T)    { isolated(t, VariantNFT, testHost) }
func TestIntegrationHostLegacy(t *testing.T) { isolated(t, VariantLegacy, testHost) }

func testHost(r *rig) {
	t := r.t
	// The tables of the legacy variant stay listed once somebody has used them.
	if r.cfg.Variant == VariantLegacy {
		for _, f := range []family{family4, family6} {
			r.rules(f, foreignRules(f))
		}
	}
	t.Run("cycles", func(t *testing.T) { testCycles(t, r) })
	if r.cfg.Variant == VariantNFT {
		for _, f := range []family{family4, family6} {
			r.rules(f, foreignRules(f))
		}
		t.Run("cycles with foreign rules", func(t *testing.T) { testCycles(t, r) })
	}
	t.Run("second process", func(t *testing.T) { testInUse(t, r) })
}

// testCycles checks that nothing is left behind, to the byte.
func testCycles(t *testing.T, r *rig) {
	before := testnet.MachineSnapshot(t)
	var open, up, down time.Duration
	for _, mode := range []Mode{Enforce, Observe} {
		for range 3 {
			cfg := r.cfg
			cfg.Mode = mode
			start := time.Now()
			h, err := openHost(cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			open += time.Since(start)
			start = time.Now()
			if err := h.prepare(); err != nil {
				t.Fatal(err)
			}
			if err := h.up(t.Context()); err != nil {
				t.Fatal(err)
			}
			up += time.Since(start)
			for _, p := range h.parts {
				now, err := p.tools.read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, table := range p.rules.tables {
					if damage := p.rules.damage(table, now, p.canon); damage != "" {
						t.Errorf("got %s %s: %s; want it as loaded", p.tools.family, table.name, damage)
					}
				}
			}
			start = time.Now()
			if err := h.down(context.Background()); err != nil {
				t.Fatal(err)
			}
			down += time.Since(start)
			if diff := testnet.Diff(before, testnet.MachineSnapshot(t)); diff != "" {
				t.Fatalf("left behind:\n%s", diff)
			}
		}
	}
	t.Logf("both families, mean of 6: open with rehearsal %v, up %v, down %v", open/6, up/6, down/6)
}

func testInUse(t *testing.T, r *rig) {
	r.start()
	second, err := openHost(r.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = second.prepare()
	var hostErr *HostError
	if !errors.Is(err, ErrInUse) || !errors.Is(err, intercept.ErrNotInterceptable) || !errors.As(err, &hostErr) || hostErr.Remedy == "" {
		t.Errorf("got %v; want a HostError that wraps ErrInUse and ErrNotInterceptable and says what to do", err)
	}
	if err := Cleanup(t.Context(), r.cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v from Cleanup; want ErrInUse", err)
	}
}
