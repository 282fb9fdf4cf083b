//go:build amd64 || arm64 || 386

package ebpf

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/hostfile"
)

// programsOf lists the programs of each feature. One that the kernel refuses takes the others of its feature with it.
//
//nolint:gochecknoglobals // a table that nobody writes
var programsOf = [numFeatures][]string{
	FeatureProcesses:    {attrProgOnExec, attrProgOnFork, attrProgOnExit},
	FeatureSockets:      {attrProgSockCreate, attrProgSockRelease, attrProgConnect4, attrProgConnect6},
	FeatureTCP:          {attrProgTcpConnect},
	FeatureUDP:          {attrProgSendmsg4, attrProgSendmsg6},
	FeatureConnectedUDP: {attrProgLocalOut},
	FeatureForwarded:    {attrProgForeignOut},
	FeatureSeed:         {attrProgSeedTasks, attrProgSeedSockets},
	FeatureEnds:         {attrProgOnState},
	FeatureUsage:        {attrProgCountOut, attrProgCountIn},
}

// needs lists what a feature is of no use without.
//
//nolint:gochecknoglobals // a table that nobody writes
var needs = map[Feature]Feature{FeatureConnectedUDP: FeatureSockets, FeatureForwarded: FeatureSockets}

// beforeQueue is the priority of our netfilter program: right before mangle (-150), whose rules queue packets.
const beforeQueue = -151

// localOut is the netfilter hook of packets that programs send (NF_INET_LOCAL_OUT).
const localOut = 3

// New attaches what the kernel lets in, for the network namespace of the calling thread; sockets of others are seen too. Call Close
// when done. The error wraps ErrRefused if nothing of use works, and errors.ErrUnsupported on other systems than Linux, and on
// processors that there are no objects for.
func New(cfg Config) (*Tracker, error) {
	// Attaching to netfilter and finding out which namespace is ours have to happen in one namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	t := &Tracker{cfg: cfg, log: cfg.Logger, maps: make(map[string]*ebpf.Map), host: hostfile.New(cfg.Proc)}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if err := t.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrRefused, err), t.detach())
	}
	if !t.status.Has(FeatureTCP) && !t.status.Has(FeatureUDP) && !t.status.Has(FeatureConnectedUDP) {
		err := fmt.Errorf("%w: %s", ErrRefused, t.status.Missing[0].Why)
		return nil, errors.Join(err, t.detach())
	}
	t.seed()
	return t, nil
}

// loader is what loading needs once.
type loader struct {
	spec   *ebpf.CollectionSpec
	cache  *btf.Cache
	cgroup string
}

func (t *Tracker) load() error {
	// Linux before 5.11 counts maps as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	spec, err := loadAttr()
	if err != nil {
		return fmt.Errorf("read the object: %w", err)
	}
	if err := t.setConstants(spec); err != nil {
		return err
	}
	t.cgroups, err = openCgroups(t.cfg.Proc)
	if err != nil {
		return err
	}
	l := &loader{spec: spec, cache: btf.NewCache(), cgroup: t.cfg.Cgroup}
	if l.cgroup == "" {
		l.cgroup = t.cgroups.root()
		t.status.Cgroup = t.cgroups.mount
	} else {
		t.status.Cgroup = l.cgroup
	}
	if err := t.loadMaps(l); err != nil {
		return err
	}
	for f := range programsOf {
		if err := t.try(l, Feature(f)); err != nil {
			t.miss(Feature(f), err)
			continue
		}
		t.status.Active = append(t.status.Active, Feature(f))
	}
	return nil
}

func (t *Tracker) miss(f Feature, err error) {
	why := err.Error()
	if v, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		t.log.Debug("the kernel's verifier refuses programs", "feature", f, "log", strings.Join(v.Log, "\n"))
	}
	t.status.Missing = append(t.status.Missing, Missing{Feature: f, Lost: f.Lost(), Why: why})
}

var errLeftOut = errors.New("left out by configuration")

// setConstants tells the programs who we are.
func (t *Tracker) setConstants(spec *ebpf.CollectionSpec) error {
	cookie, err := netnsCookie()
	if err != nil {
		return fmt.Errorf("find our network namespace: %w", err)
	}
	pidns, err := pidNamespace(t.cfg.Proc)
	if err != nil {
		return fmt.Errorf("find our pid namespace: %w", err)
	}
	for name, value := range map[string]any{
		attrVarOwnNetns: cookie, attrVarOwnPidns: pidns, attrVarOwnTgid: uint32(unix.Getpid()),
		attrVarHostMntns: uint32(t.host.MountNamespace()),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// netnsCookie names the network namespace of this thread. Before Linux 5.14, which cannot tell, it is 0: then all are taken for ours.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err //nolint:wrapcheck // the caller says what it was for
	}
	defer closeFD(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	return cookie, err //nolint:wrapcheck // the caller says what it was for
}

// firstPIDNamespace is the inode of the namespace that the kernel starts with (PROC_PID_INIT_INO).
const firstPIDNamespace = 0xeffffffc

// pidNamespace returns the inode of our pid namespace, 0 for the first one.
func pidNamespace(proc string) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Stat(proc+"/self/ns/pid", &st); err != nil {
		return 0, err //nolint:wrapcheck // the caller says what it was for
	}
	if st.Ino == firstPIDNamespace {
		return 0, nil
	}
	return uint32(st.Ino), nil
}

func (t *Tracker) loadMaps(l *loader) error {
	only := l.spec.Copy()
	only.Programs, only.Variables = nil, nil
	delete(only.Maps, ".rodata")
	c, err := ebpf.NewCollection(only)
	if err != nil {
		return fmt.Errorf("make maps: %w", err)
	}
	t.maps, c.Maps = c.Maps, nil
	t.tuples = t.maps[attrMapTuples].FD()
	c.Close()
	return nil
}

// try loads and attaches the programs of a feature, all or none.
func (t *Tracker) try(l *loader, f Feature) error {
	if slices.Contains(t.cfg.Without, f) {
		return errLeftOut
	}
	if other, ok := needs[f]; ok && !t.status.Has(other) {
		return fmt.Errorf("takes the feature %q", other)
	}
	spec := l.spec.Copy()
	for name := range spec.Programs {
		if !slices.Contains(programsOf[f], name) {
			delete(spec.Programs, name)
		}
	}
	c, err := t.loadPrograms(l, spec, f)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer c.Close() // links keep what they need
	begin := len(t.attached)
	for _, name := range programsOf[f] {
		if err := t.attach(l, spec.Programs[name], c.Programs[name]); err != nil {
			for _, a := range t.attached[begin:] {
				err = errors.Join(err, a.Close())
			}
			t.attached = t.attached[:begin]
			return fmt.Errorf("attach %s: %w", name, err)
		}
	}
	return nil
}

func (t *Tracker) loadPrograms(l *loader, spec *ebpf.CollectionSpec, f Feature) (*ebpf.Collection, error) {
	opts := ebpf.CollectionOptions{MapReplacements: t.maps, Cache: l.cache}
	if f != FeatureUsage {
		return ebpf.NewCollectionWithOptions(spec, opts) //nolint:wrapcheck // try says what
	}
	know := spec.Variables[attrVarPacketsKnowNetns]
	if err := know.Set(true); err != nil {
		return nil, err //nolint:wrapcheck // try says what
	}
	if c, err := ebpf.NewCollectionWithOptions(spec, opts); err == nil {
		return c, nil
	}
	if err := know.Set(false); err != nil {
		return nil, err //nolint:wrapcheck // try says what
	}
	return ebpf.NewCollectionWithOptions(spec, opts) //nolint:wrapcheck // try says what
}

func (t *Tracker) attach(l *loader, spec *ebpf.ProgramSpec, p *ebpf.Program) error {
	switch {
	case spec.Type == ebpf.Netfilter:
		for _, family := range []link.NetfilterProtocolFamily{unix.AF_INET, unix.AF_INET6} {
			a, err := link.AttachNetfilter(link.NetfilterOptions{
				Program: p, ProtocolFamily: family, Hook: localOut, Priority: beforeQueue,
			})
			if err != nil {
				return err //nolint:wrapcheck // try says what
			}
			t.attached = append(t.attached, a)
		}
		return nil
	case spec.AttachType == ebpf.AttachTraceIter:
		a, err := link.AttachIter(link.IterOptions{Program: p})
		if err != nil {
			return err //nolint:wrapcheck // try says what
		}
		t.seeders = append(t.seeders, seeder{spec.Name, a})
		t.attached = append(t.attached, a)
		return nil
	case spec.Type == ebpf.Tracing:
		a, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return err //nolint:wrapcheck // try says what
		}
		t.attached = append(t.attached, a)
		return nil
	}
	a, err := link.AttachCgroup(link.CgroupOptions{Path: l.cgroup, Attach: spec.AttachType, Program: p})
	if err != nil {
		return err //nolint:wrapcheck // try says what
	}
	t.attached = append(t.attached, a)
	return nil
}
