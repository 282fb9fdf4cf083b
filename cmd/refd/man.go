package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

type manCmd struct{}

// Run prints the manual page, made from the command line itself. It is in the language of man(7).
func (manCmd) Run(a *app) error {
	var b strings.Builder
	m := a.parser.Model
	fmt.Fprintf(&b, ".\\\" made by `refd man`\n.TH REFD 8 \"\" %s \"System Administration\"\n", quoted("refd "+versionText()))
	fmt.Fprintf(&b, ".SH NAME\nrefd \\- application firewall\n.SH SYNOPSIS\n.B refd\n[\\fIflags\\fR] \\fIcommand\\fR [\\fIflags\\fR] [\\fIarguments\\fR]\n")
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\nCommands but\n.BR run ,\n.BR check ,\n.B export\nand\n.B cleanup\nask the refd that runs.\n", roff(m.Help))
	b.WriteString(".SH FLAGS\nOf all commands:\n")
	manFlags(&b, m.Node)
	b.WriteString(".SH COMMANDS\n")
	for _, n := range m.Children {
		manCommand(&b, n, "refd")
	}
	b.WriteString(`.SH EXIT STATUS
.TP
.B 0
All is well.
.TP
.B 1
The command failed, and said why. Of
.BR "refd run" ,
also that nobody confirmed in time.
.TP
.B 3
Of
.BR "refd status" :
refd does not run.
.TP
.BR 10 ", " 11 ", " 12
Of
.BR "refd status" :
the worst state is a hint, a warning, an error.
.TP
.B 75
Of
.BR "refd run" :
a restart was asked for; the service manager starts it again.
.SH FILES
.TP
.I /etc/weir/refd.yaml
The configuration.
.TP
.I /run/weir/refd.sock
Where the running refd is asked.
.TP
.I /var/lib/weir/history.db
The history of connections, if the configuration says so.
.SH SEE ALSO
.BR iptables (8),
.BR systemd (1)
`)
	return a.say("%s", b.String())
}

func manCommand(b *strings.Builder, n *kong.Node, parent string) {
	if n.Hidden {
		return
	}
	name := parent + " " + n.Name
	fmt.Fprintf(b, ".SS %s\n", quoted(strings.TrimSpace(name+" "+arguments(n))))
	b.WriteString(roff(n.Help) + "\n")
	for _, arg := range n.Positional {
		fmt.Fprintf(b, ".TP\n\\fI%s\\fR\n%s\n", roff(arg.Name), roff(arg.Help))
	}
	manFlags(b, n)
	for _, child := range n.Children {
		manCommand(b, child, name)
	}
}

func arguments(n *kong.Node) string {
	var all []string
	for _, arg := range n.Positional {
		text := "<" + arg.Name + ">"
		if !arg.Required {
			text = "[" + text + "]"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func manFlags(b *strings.Builder, n *kong.Node) {
	for _, f := range n.Flags {
		if f.Hidden || f.Name == "help" {
			continue
		}
		text := `\fB\-\-` + roff(f.Name) + `\fR`
		if f.Short != 0 {
			text = fmt.Sprintf(`\fB\-%c\fR, `, f.Short) + text
		}
		if !f.IsBool() {
			text += `=\fI` + roff(strings.ToUpper(f.FormatPlaceHolder())) + `\fR`
		}
		fmt.Fprintf(b, ".TP\n%s\n%s\n", text, roff(f.Help))
	}
}

// roff writes text so that it is taken as it is.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n", " ").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// quoted is roff as one argument of a macro.
func quoted(s string) string { return `"` + strings.ReplaceAll(roff(s), `"`, `\(dq`) + `"` }
