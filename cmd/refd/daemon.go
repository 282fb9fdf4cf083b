package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/weirfw/weir/internal/refd"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/rules"
)

// load reads the configuration that the command line names. Without a file at
// the default place there are the built-in defaults.
func (a *app) load(opts ...rules.Option) (*config.Loaded, error) {
	l, err := config.Read(a.configPath(), opts...)
	if a.cli.Config == "" && errors.Is(err, fs.ErrNotExist) {
		return config.Parse("", nil, opts...)
	}
	return l, err
}

type runCmd struct {
	Mode      string        `enum:"observe,enforce," default:"" help:"Override the configuration: observe computes and shows decisions and accepts everything; enforce carries them out."`
	Confirm   time.Duration `placeholder:"DURATION" help:"Roll everything back unless 'refd confirm' comes within this time."`
	LogFormat string        `enum:"text,json," default:"" help:"Override the configuration: text or json."`
	LogLevel  string        `enum:"debug,info,warn,error," default:"" help:"Override the configuration: debug, info, warn or error."`
}

// Run runs the daemon.
func (c *runCmd) Run(a *app) error {
	if a.cli.Config == "" && privileged() {
		if err := protect(); err != nil {
			return err
		}
	}
	ifaces := &rules.Interfaces{}
	cfg, err := a.load(rules.WithInterfaces(ifaces))
	if err != nil {
		return err
	}
	if c.Mode != "" {
		cfg.Mode = config.Mode(c.Mode)
	}
	if c.LogFormat != "" {
		cfg.Log.Format = config.LogFormat(c.LogFormat)
	}
	if c.LogLevel != "" {
		if err := cfg.Log.Level.UnmarshalText([]byte(c.LogLevel)); err != nil {
			return fmt.Errorf("log level: %w", err)
		}
	}
	if err := a.useSocket(cfg); err != nil {
		return err
	}
	if !privileged() {
		return errors.New("refd intercepts packets and needs " + privilege)
	}
	level := &slog.LevelVar{}
	level.Set(cfg.Log.Level)
	log := newLogger(a.stderr, cfg.Log.Format, level)
	for _, n := range cfg.Notes {
		log.Warn("configuration: " + n.Error())
	}
	d, err := refd.New(refd.Options{
		ConfigPath: cfg.Path, NewConfigPath: a.configPath(), Config: cfg, Interfaces: ifaces, Confirm: c.Confirm, Version: versionText(), Logger: log, Level: level,
	})
	if err != nil {
		return err
	}
	stop := reloadOnHangup(a, d, log)
	defer stop()
	defer tellReady(a, d, log)()
	if cfg.Mode == config.Observe {
		log.Info("mode observe: decisions are computed and shown, and everything is accepted; `refd run --mode enforce` enforces")
	}
	status, err := d.Run(a.ctx)
	if err != nil {
		return err
	}
	if cfg.Mode == config.Enforce && cfg.OnExit == config.Closed {
		log.Warn("the rules stay closed (on_exit: closed): start refd again, or open everything with `" + a.cleanupCommand() + "`")
	}
	if status != 0 {
		return statusError(status)
	}
	return nil
}

// useSocket puts --socket into the configuration.
func (a *app) useSocket(cfg *config.Loaded) error {
	if a.cli.Socket == "" {
		return nil
	}
	if len(a.cli.Socket) > config.MaxSocket {
		return fmt.Errorf("--socket %s: too long: use at most %d bytes", a.cli.Socket, config.MaxSocket)
	}
	cfg.API.Socket = a.cli.Socket
	return nil
}

// tellReady tells the service manager, if there is one, when packets are intercepted. What it returns ends the waiting.
func tellReady(a *app, d *refd.Daemon, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(a.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if d.Intercepting(ctx) != nil {
			return // Run says why
		}
		a.ready()
		if err := refd.Notify(ctx, os.Getenv("NOTIFY_SOCKET"), "READY=1"); err != nil {
			log.Warn("the service manager does not know that refd is ready", "err", err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func newLogger(w io.Writer, format config.LogFormat, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == config.JSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// reloadOnHangup reloads on SIGHUP until stop is called.
func reloadOnHangup(a *app, d *refd.Daemon, log *slog.Logger) (stop func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range hup {
			if _, err := d.Reload(a.ctx); err != nil {
				log.Error("reload", "err", err)
			}
		}
	}()
	return func() {
		signal.Stop(hup)
		close(hup)
		<-done
	}
}
