package refd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/splittunnel"
)

// Options of a Daemon.
type Options struct {
	// ConfigPath is read again on reload; empty if there is no file.
	ConfigPath string
	// NewConfigPath is where changes by the API make one if there is none; empty is to refuse them.
	NewConfigPath string
	// Config is the checked configuration. Required.
	Config *config.Loaded
	// Interfaces are what Config.Rules looks interface names up in. Required.
	Interfaces *rules.Interfaces
	// Confirm is how long to wait for a confirmation before everything is
	// rolled back; 0 is not to ask for one.
	Confirm time.Duration
	// Version is shown.
	Version string
	// Handlers are asked about connections before the rules, in order, after
	// IVPN's. Optional.
	Handlers []extverdict.Link
	// Logger is required. Level is what its handler follows; a reload sets it.
	Logger *slog.Logger
	Level  *slog.LevelVar
}

// source is a packet backend with what refd needs of it.
type source interface {
	intercept.Source
	intercept.Updater
	intercept.Cutter
	// figures are for people and programs.
	figures() any
	// cleanup removes what the backend left on the host.
	cleanup(ctx context.Context) error
}

// Daemon is a refd. Build it with New, run it with Run.
type Daemon struct {
	opt     Options
	log     *slog.Logger
	started time.Time

	// external has IVPN's handler and those of whoever embeds refd, if any.
	external extverdict.Slot

	store     *connstore.Live
	rules     rules.Live
	processes *procinfo.Finder
	// attribution is what processes asks first.
	attribution attribution
	links       *netif.Watcher
	source      source
	firewall    *firewall.Firewall
	// split is nil without an engine.
	split  *splittunnel.Splitter
	wishes splitPolicy
	naming namingParts

	nameserver nameserverParts
	history    historyParts
	vpnParts
	prompts *prompt.Store

	feed    feed
	lookups lookups
	traffic traffic
	notices *module.Notifications
	editing sync.Mutex // held while the configuration file is changed
	dns     guardParts
	check   checkParts
	online  onlineParts

	root         *module.Group
	interception *module.Switch
	pauser       *module.Pauser
	guard        *module.Service
	server       *module.Service
	resolver     *module.Service
	exit         *module.Exit

	mu         sync.Mutex // guards cfg; held while a reload runs
	cfg        *config.Loaded
	confirmBy  atomic.Pointer[time.Time]
	confirm    *module.Task
	sampler    *module.Task
	rolledBack atomic.Bool
	// firstErr gets the error of interception that was never ready.
	firstErr chan error
}

// ErrRolledBack is returned by Run when nobody confirmed in time.
var ErrRolledBack = errors.New("not confirmed in time: interception was stopped and the rules were removed")

// New builds a daemon; nothing runs yet and nothing of the host was changed.
func New(opt Options) (*Daemon, error) {
	d := &Daemon{opt: opt, log: opt.Logger, cfg: opt.Config, exit: module.NewExit(), notices: module.NewNotifications(opt.Logger), firstErr: make(chan error, 1)}
	cfg := opt.Config
	var err error
	if d.processes, err = procinfo.New(d.attribution.finderConfig(&cfg.File)); err != nil {
		return nil, fmt.Errorf("find processes: %w", err)
	}
	if d.links, err = netif.New(netif.Config{Log: opt.Logger}); err != nil {
		return nil, fmt.Errorf("read interfaces: %w", err)
	}
	if d.source, err = openSource(cfg, opt.Logger, d.repaired); err != nil {
		return nil, err
	}
	d.rules.Swap(cfg.Rules)
	if err := d.buildSplit(); err != nil {
		return nil, err
	}
	d.store = connstore.NewLive(connstore.Config{
		MaxLive: cfg.History.MaxLive, MaxEnded: cfg.History.MaxEnded, KeepEnded: cfg.History.KeepEnded,
	})
	d.buildPrompts()
	if err := d.buildHistory(); err != nil {
		return nil, err
	}
	d.store.OnChange(d.feed.note)
	d.store.OnQuery(d.feed.noteQuery)
	if err := d.buildNaming(); err != nil {
		return nil, err
	}
	for _, build := range []func() error{
		d.buildIVPN, d.buildConnectivity, d.buildSelfCheck, d.buildNameserver, d.buildGuard, d.buildFirewall,
	} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	d.steer()
	return d, d.buildModules()
}

func (d *Daemon) buildFirewall() error {
	cfg := d.cfg
	fc := firewall.Config{
		Store:           d.store,
		Processes:       d.processes,
		External:        &d.external,
		HandlerDeadline: cfg.Handler.Deadline,
		Deciders:        []firewall.Decider{d.online.connectivity, d.dns.Guard, &firewall.RuleDecider{Rules: &d.rules, Asker: d.prompts, Timeout: cfg.Ask.Timeout}},
		Host:            host{d.links},
		Source:          d.source,
		Report:          d.condition,
		Logger:          d.log.With("module", "firewall"),
	}
	if d.ivpn != nil {
		fc.Services = append(fc.Services, firewall.Service{Protocol: packet.TCP, Addr: cfg.IVPN.Ping})
	}
	if cfg.API.Listen.IsValid() {
		fc.Services = append(fc.Services, firewall.Service{Protocol: packet.TCP, Addr: cfg.API.Listen})
	}
	if cfg.Mode == config.Observe {
		fc.Mode = firewall.Observe
	}
	if !cfg.PermanentVerdicts {
		fc.Permanent = firewall.NeverPermanent
	}
	if cfg.Failed == config.FailBlock {
		fc.FailedAnswer = firewall.FailLikeBlock
	}
	if cfg.OnChange == config.Leave {
		fc.OnChange = firewall.LeaveChanged
	}
	if d.split != nil {
		fc.SplitTunneler = d.split
	}
	d.naming.configure(&fc, cfg.DNS.Wait, d.nameserver.server.Enabled)
	d.nameserver.configure(&fc, cfg.DNS.Nameserver.Listen, d.ofVPN)
	d.dns.configure(&fc, d.ofVPN)
	f, err := firewall.New(fc)
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	d.firewall = f
	q := d.nameserver.queries
	q.handler, q.guard, q.passes = f, d.dns.Guard, d.online.passesName
	return nil
}

// buildModules orders the parts: what packets need starts before packets come.
func (d *Daemon) buildModules() error {
	links, err1 := module.NewService(module.ServiceConfig{Name: "interfaces", Logger: d.log, Run: d.runLinks})
	guard, err2 := module.NewService(module.ServiceConfig{Name: "firewall", Logger: d.log, Run: d.firewall.Run})
	packets, err3 := module.NewService(module.ServiceConfig{Name: "packets", Logger: d.log, Run: d.runSource})
	server, err4 := module.NewService(module.ServiceConfig{Name: "api", Logger: d.log, Run: d.serveAPI})
	control, err5 := module.New(module.Config{Name: "control", Logger: d.log, Start: d.startControl})
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return fmt.Errorf("build modules: %w", err)
	}
	d.guard, d.server = guard, server
	d.confirm = control.Task("confirm", d.rollBack)
	d.sampler = control.Task("traffic", d.sample)
	var err error
	d.interception, err = module.NewSwitch(module.SwitchConfig{Name: "interception", Logger: d.log, Module: packets, Position: module.On})
	if err != nil {
		return fmt.Errorf("build modules: %w", err)
	}
	d.pauser, err = module.NewPauser(module.PauserConfig{Unit: control, Name: "interception", Off: d.pauseOff, On: d.pauseOn})
	if err != nil {
		return fmt.Errorf("build modules: %w", err)
	}
	owners, err := d.attributionModule()
	if err != nil {
		return err
	}
	lists, err := d.buildLists()
	if err != nil {
		return err
	}
	parts := []module.Module{links, guard, d.interception, server, control, owners, lists, d.dns.module, d.online.module, d.check.module}
	if d.ivpn != nil {
		announced, err := d.vpnModules()
		if err != nil {
			return err
		}
		// after interception: what it wants to reach could not be reached before
		parts = slices.Insert(parts, 3, module.Module(d.vpn), module.Module(announced))
	}
	// before packets are redirected to it, and until they no longer are
	parts = slices.Insert(parts, 1, module.Module(d.nameserver.module))
	if d.split != nil {
		split, err := module.NewService(module.ServiceConfig{Name: "split tunnel", Logger: d.log, Run: d.split.Run})
		if err != nil {
			return fmt.Errorf("build modules: %w", err)
		}
		parts = slices.Insert(parts, 1, module.Module(split))
	}
	if d.naming.monitor != nil {
		if d.resolver, err = module.NewService(module.ServiceConfig{Name: "resolver", Logger: d.log, Run: d.naming.monitor.Run}); err != nil {
			return fmt.Errorf("build modules: %w", err)
		}
		parts = slices.Insert(parts, 1, module.Module(d.resolver))
	}
	if d.history.module != nil {
		// before there are connections, and until there are no more
		parts = slices.Insert(parts, 1, module.Module(d.history.module))
	}
	d.root, err = module.NewGroup(module.GroupConfig{Name: "refd", Logger: d.log}, parts...)
	if err != nil {
		return fmt.Errorf("build modules: %w", err)
	}
	return nil
}

// Run runs the daemon until ctx is done or an end is asked for. It returns the
// exit status of the process.
func (d *Daemon) Run(ctx context.Context) (status int, err error) {
	d.started = time.Now()
	defer d.notices.Watch(d.root)()
	defer d.prompts.Reset()
	status, err = module.Run(ctx, d.root, d.exit)
	if d.rolledBack.Load() {
		return 1, errors.Join(ErrRolledBack, err, Cleanup(context.WithoutCancel(ctx), &d.opt.Config.File, d.log))
	}
	if err != nil {
		return status, err //nolint:wrapcheck // main says whose error it is
	}
	return status, nil
}

func (d *Daemon) runLinks(ctx context.Context, ready func()) error {
	stop := d.links.Subscribe(func(s *netif.Snapshot) {
		names := make(map[uint32]string)
		for i := range s.All() {
			names[uint32(i.Index)] = i.Name
		}
		d.opt.Interfaces.Store(names)
	})
	defer stop()
	if err := d.links.Run(ctx, ready); err != nil {
		return fmt.Errorf("follow interfaces: %w", err)
	}
	return nil
}

// runSource intercepts. It remembers why the first start failed: what cannot
// work now will not by trying again, and a person waits for the answer.
func (d *Daemon) runSource(ctx context.Context, ready func()) error {
	was := false
	err := d.source.Run(ctx, d.firewall, func() {
		was = true
		d.setIntercepting(true)
		ready()
	})
	d.setIntercepting(false)
	if err != nil && !was {
		select {
		case d.firstErr <- err:
		default:
		}
	}
	if err != nil {
		return fmt.Errorf("intercept packets: %w", err)
	}
	return nil
}

// startControl waits for the first start of interception, and begins to wait
// for the confirmation if one is asked for.
func (d *Daemon) startControl(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	settled := make(chan error, 1)
	go func() { settled <- d.interception.Settled(ctx) }()
	select {
	case err := <-settled:
		if err != nil {
			return fmt.Errorf("start interception: %w", err)
		}
	case err := <-d.firstErr:
		cancel()
		<-settled
		return fmt.Errorf("start interception: %w", err)
	}
	d.sampler.Repeat(trafficStep)
	if d.opt.Confirm > 0 {
		by := time.Now().Add(d.opt.Confirm)
		d.confirmBy.Store(&by)
		d.confirm.Delay(d.opt.Confirm)
		d.log.Warn("confirm with `refd confirm`, or everything is rolled back", "within", d.opt.Confirm)
	}
	return nil
}

// rollBack ends a run that nobody confirmed.
func (d *Daemon) rollBack(context.Context) error {
	if d.confirmBy.Swap(nil) == nil {
		return nil
	}
	d.rolledBack.Store(true)
	if err := d.exit.Shutdown("not confirmed in time"); err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

// condition shows what the firewall reports as a state of its module.
func (d *Daemon) condition(c firewall.Condition) {
	if c.Over {
		d.guard.States().Remove(c.ID)
		return
	}
	d.log.Warn(c.Text, "condition", c.ID)
	d.guard.States().Add(module.State{ID: c.ID, Name: "Firewall: " + c.ID, Message: c.Text, Severity: module.Warning})
}

func (d *Daemon) repaired() {
	d.log.Warn("other software had changed our packet filter rules; they were put right")
}

func (d *Daemon) pauseOff(ctx context.Context) error {
	d.interception.Set(module.Off)
	if err := d.interception.Settled(ctx); err != nil {
		return fmt.Errorf("stop interception: %w", err)
	}
	// in mode enforce a stop leaves the rules closed
	return d.source.cleanup(ctx)
}

func (d *Daemon) pauseOn(ctx context.Context) error {
	d.interception.Set(module.On)
	if err := d.interception.Settled(ctx); err != nil {
		return fmt.Errorf("start interception: %w", err)
	}
	return nil
}
