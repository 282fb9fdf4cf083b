// Command refd is the reference daemon of weir: an application firewall that
// decides, connection by connection, what programs on this machine may do.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/winsvc"
)

// version is set by the linker for releases.
var version = ""

// cli is the command line.
type cli struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file. Default ${config}; without that file, the built-in defaults."`
	Socket string `type:"path" placeholder:"PATH" help:"Socket of the running refd. Default that of the configuration."`

	Run           runCmd           `cmd:"" help:"Run the firewall until it is told to stop."`
	Check         checkCmd         `cmd:"" help:"Check a configuration file, and say what is wrong and where."`
	Status        statusCmd        `cmd:"" help:"Show how refd is. The exit status is that of the worst state: 0 fine, 10 hint, 11 warning, 12 error; 3 if refd does not run."`
	Conns         connsCmd         `cmd:"" help:"List connections and what was decided about them."`
	Top           topCmd           `cmd:"" help:"Show who transfers most, every few seconds."`
	Explain       explainCmd       `cmd:"" help:"Say what would happen to a connection, and which rule says so."`
	Rules         rulesCmd         `cmd:"" help:"List the rules in force with their hit counters."`
	Interfaces    interfacesCmd    `cmd:"" help:"List network interfaces, and which is the default."`
	Split         splitCmd         `cmd:"" help:"Show the split tunnel, or switch it on or off."`
	DNS           dnsCmd           `cmd:"" name:"dns" help:"Ask refd's nameserver, or show or empty its cache."`
	Selfcheck     selfcheckCmd     `cmd:"" help:"Check whether packets and names are seen. The exit status is 1 if something does not work."`
	UI            uiCmd            `cmd:"" name:"ui" help:"Make a login link for the web page, for one use, and open it."`
	Prompt        promptCmd        `cmd:"" help:"Answer the questions of rules with the action ask."`
	Notifications notificationsCmd `cmd:"" help:"Show or dismiss what refd has to say about itself."`
	Sleep         sleepCmd         `cmd:"" help:"Have refd put off what can wait, to save power; the firewall does not sleep."`
	Export        exportCmd        `cmd:"" help:"Write the configuration, rules and all, into one file."`
	Import        importCmd        `cmd:"" help:"Make an exported configuration the one in force."`
	Reload        reloadCmd        `cmd:"" help:"Read the configuration again; a bad one changes nothing."`
	Confirm       confirmCmd       `cmd:"" help:"Confirm a run that was started with --confirm."`
	Pause         pauseCmd         `cmd:"" help:"Stop intercepting for a time: everything passes."`
	Resume        resumeCmd        `cmd:"" help:"End a pause."`
	Stop          stopCmd          `cmd:"" help:"Stop the running refd, or restart it."`
	Cleanup       cleanupCmd       `cmd:"" help:"Remove everything that a crashed refd left in this machine's packet filter."`
	Service       serviceCmd       `cmd:"" help:"Install refd as a Windows service, start it, stop it, or remove it."`
	Version       versionCmd       `cmd:"" help:"Print the version."`
	Man           manCmd           `cmd:"" hidden:"" help:"Print the manual page."`
	Completion    completionCmd    `cmd:"" help:"Print a completion script for bash, zsh or fish."`
}

// app is what commands need of the process.
type app struct {
	ctx    context.Context
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	cli    *cli
	parser *kong.Kong
	ready  func() // the daemon intercepts
}

// statusError ends the process with a status and without a message.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	service, err := winsvc.IsService()
	switch {
	case err != nil:
	case service:
		err = asService(ctx, os.Args[1:])
	default:
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	stop()
	if err != nil {
		tell(os.Stderr, err)
		os.Exit(exitStatus(err))
	}
}

// exitStatus is the status with which the process ends because of err.
func exitStatus(err error) int {
	if status, ok := errors.AsType[statusError](err); ok {
		return int(status)
	}
	return 1
}

// tell says why refd ends, unless the status says it all.
func tell(w io.Writer, err error) {
	if status := statusError(0); errors.As(err, &status) {
		return
	}
	for line := range strings.Lines(err.Error()) { // several errors are several lines
		fmt.Fprintln(w, "refd:", strings.TrimSuffix(line, "\n"))
	}
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return runReady(ctx, args, stdout, stderr, func() {})
}

// runReady is run, and calls ready when packets are intercepted.
func runReady(ctx context.Context, args []string, stdout, stderr io.Writer, ready func()) error {
	return runFrom(ctx, args, os.Stdin, stdout, stderr, ready)
}

// runFrom is runReady with what is typed.
func runFrom(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, ready func()) error {
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("refd"),
		kong.Description("An application firewall: it decides, connection by connection, what programs may do."),
		kong.Vars{"config": config.DefaultPath},
		kong.Writers(stdout, stderr),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Exit(func(status int) { exited = status }))
	if err != nil {
		return fmt.Errorf("build command line: %w", err)
	}
	k, err := parser.Parse(args)
	if exited >= 0 {
		// --help was answered
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w (see `refd --help`)", err)
	}
	return k.Run(&app{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, cli: &c, parser: parser, ready: ready}) //nolint:wrapcheck // the command's own error
}

// say prints for people.
func (a *app) say(format string, args ...any) error {
	if _, err := fmt.Fprintf(a.stdout, format, args...); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// count says how many there are of something.
func count(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun + "s"
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// client returns a client of the running refd. Its socket is that of the
// configuration, even if the rest of that is bad.
func (a *app) client() *api.Client {
	socket := a.cli.Socket
	if socket == "" {
		socket = config.Socket(a.configPath())
	}
	return api.NewClient(socket)
}

// configPath is where the configuration is, if there is one.
func (a *app) configPath() string { return cmp.Or(a.cli.Config, config.DefaultPath) }

type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run prints the version.
func (c *versionCmd) Run(a *app) error {
	if c.JSON {
		return printJSON(a.stdout, map[string]string{"version": versionText()})
	}
	return a.say("refd %s\n", versionText())
}

func versionText() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}
