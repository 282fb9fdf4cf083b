package nfq

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Cleanup removes everything of ours from the host, whatever state a crash left it in: rules of both families and variants, the
// backstop, exceptions to kill switches, marks and labels of connections, and the state file, by which it restores what was
// there before. It does no harm when there is nothing to do. Of cfg, the names, marks and the state file count. Errors wrap
// ErrInUse while another process filters with these names, ErrNoRights, and ErrNamespace on a thread that is in another network
// namespace than its process.
func Cleanup(ctx context.Context, cfg HostConfig) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	if err := errors.Join(checkRights(), checkNamespace()); err != nil {
		return err
	}
	lock, err := takeLock(cfg.ChainPrefix)
	if err != nil {
		return err
	}
	return errors.Join(cleanup(ctx, cfg), lock.release())
}

func cleanup(ctx context.Context, cfg HostConfig) error {
	before, err := readState(cfg.StateFile)
	errs := []error{err, newKillSwitch(cfg).down(ctx), cleanupRules(ctx, cfg, before), before.stopCounting()}
	for _, name := range []string{cfg.BackstopTable, cfg.guardTable()} {
		errs = append(errs, cleanupTable(name))
	}
	t, err := openTracker(cfg.Marks)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, t.forgetAll(), t.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return before.erase(cfg.StateFile)
}

// cleanupRules looks at both variants: nobody knows which one the crashed process used. One that does not work does not matter if
// the kernel holds no tables of it.
func cleanupRules(ctx context.Context, cfg HostConfig, before *hostState) error {
	var all []tools
	for _, v := range []Variant{VariantNFT, VariantLegacy} {
		for _, f := range hostFamilies(BothFamilies) {
			if t, ok := findTools(v, f); ok {
				all = append(all, t)
			}
		}
	}
	if len(all) == 0 {
		return &HostError{Kind: ErrNoTool, What: "no programs iptables-save and iptables-restore", Remedy: installRemedy}
	}
	err := each(len(all), func(i int) error {
		err := removeRules(ctx, all[i], cfg.ChainPrefix)
		if err == nil {
			return nil
		}
		held, heldErr := holdsTables(all[i : i+1])
		if held || heldErr != nil {
			return errors.Join(err, heldErr)
		}
		cfg.Logger.Warn("one variant of iptables does not work: the kernel holds no tables of it", "error", err)
		return nil
	})
	return errors.Join(err, before.tidy())
}

func cleanupTable(name string) error {
	own, err := openTable(name)
	if err != nil {
		return err
	}
	if err := own.remove(); err != nil && !isNoNFT(err) {
		return errors.Join(err, own.close())
	}
	return own.close()
}

// isNoNFT reports whether an error says that the kernel has no nf_tables.
func isNoNFT(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL)
}

// tidy deletes the tables and base chains of iptables-nft that came with our rules, if nobody has put anything into them.
func (s *hostState) tidy() error {
	if s == nil || s.Guessed || s.Variant != VariantNFT.String() {
		return nil
	}
	n, err := dialNFT()
	if err != nil {
		return err
	}
	for _, f := range []uint8{nfproto4, nfproto6} {
		for range loadTries {
			// Another process may change something between the look and the deletion: then the kernel refuses.
			if err = s.tidyFamily(n, f); !errors.Is(err, unix.ERESTART) && !errors.Is(err, unix.EBUSY) {
				break
			}
		}
		if err != nil {
			return errors.Join(fmt.Errorf("delete empty tables: %w", err), n.close())
		}
	}
	return n.close()
}

func (s *hostState) tidyFamily(n *nftConn, f uint8) error {
	generation, err := n.generation()
	if err != nil {
		return err
	}
	tables, chains, err := n.iptables(f)
	if err != nil {
		return err
	}
	var msgs []netlink.Message
	deleted := map[string]uint32{}
	for _, c := range chains {
		if slices.Contains(s.Chains, c.key()) || !c.accepts || c.use > 0 {
			continue
		}
		deleted[c.Table]++
		msgs = append(msgs, nftMessage(nftMsgDelChain, 0, f,
			nftString(unix.NFTA_CHAIN_TABLE, c.Table), nftString(unix.NFTA_CHAIN_NAME, c.Chain)))
	}
	for _, t := range tables {
		if !slices.Contains(s.Tables, t.key()) && t.use == deleted[t.Name] {
			msgs = append(msgs, nftMessage(nftMsgDelTable, 0, f, nftString(unix.NFTA_TABLE_NAME, t.Name)))
		}
	}
	if len(msgs) == 0 {
		return nil
	}
	return n.batchAt(generation, msgs...)
}
