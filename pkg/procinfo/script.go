package procinfo

import (
	"path"
	"strings"
)

// interpreter says how a family of programs reads its command line up to the
// script. Short options are letters behind "-" or "+", alone or together.
type interpreter struct {
	// names of the executable, without a version at the end.
	names []string
	// inline are short options after which there is no script file.
	inline string
	// values are short options with a value: the rest of the word, or the next
	// word.
	values string
	// attached are short options that take the rest of the word, if any.
	attached string
	// longInline and longValues are the same for long options, dashes included.
	longInline, longValues []string
	// scriptAfter are options whose value is the script.
	scriptAfter []string
	// subcommands may stand in front of the script.
	subcommands []string
	// extensions of scripts; other words are no files. None: every word is one.
	extensions []string
	// wholeWords tells that short options are not letters.
	wholeWords bool
}

// interpreters is the table of known ones, by their documented options.
var interpreters = [...]interpreter{
	{
		names: []string{"python", "pypy"}, inline: "cmV?h", values: "WX",
		longInline: []string{"--version", "--help"}, longValues: []string{"--check-hash-based-pycs"},
	},
	{
		names: []string{"bash", "rbash"}, inline: "cs", values: "oO",
		longInline: []string{"--version", "--help"}, longValues: []string{"--rcfile", "--init-file"},
	},
	{names: []string{"sh", "dash", "ash", "ksh", "mksh", "zsh"}, inline: "cs", values: "o"},
	{
		names: []string{"fish"}, inline: "cvh", values: "CdDo",
		longInline: []string{"--command", "--version", "--help"},
		longValues: []string{"--init-command", "--debug", "--debug-output", "--profile", "--features"},
	},
	{names: []string{"perl"}, inline: "eEvVh", values: "I", attached: "0lFCMmiDxdt"},
	{
		names: []string{"ruby", "jruby"}, inline: "eh", values: "ICErX", attached: "0FKTWx",
		longInline: []string{"--version", "--help"}, longValues: []string{"--encoding", "--external-encoding", "--internal-encoding"},
	},
	{
		names: []string{"node", "nodejs"}, inline: "epvh", values: "rC",
		longInline:  []string{"--eval", "--print", "--version", "--help", "--test"},
		longValues:  []string{"--require", "--import", "--loader", "--experimental-loader", "--conditions", "--env-file", "--title"},
		subcommands: []string{"inspect"},
	},
	{
		names: []string{"php", "php-cgi"}, inline: "rBREvimhs", values: "cdzSt",
		longInline: []string{"--run", "--version", "--help", "--info"}, longValues: []string{"--define", "--php-ini", "--server", "--docroot"},
		scriptAfter: []string{"-f", "--file"},
	},
	{names: []string{"lua", "luajit", "texlua"}, inline: "v", values: "elj"},
	{names: []string{"tclsh", "wish", "expect"}, inline: "c", values: "d", scriptAfter: []string{"-f"}},
	{
		names: []string{"java"}, wholeWords: true, longInline: []string{"-m", "-version", "--version", "-help", "--help", "--module"},
		longValues:  []string{"-cp", "-classpath", "--class-path", "-p", "--module-path", "--upgrade-module-path", "--add-modules", "--add-opens", "--add-exports", "--add-reads", "--source"},
		scriptAfter: []string{"-jar"}, extensions: []string{".java", ".jar"},
	},
	{names: []string{"mono"}, wholeWords: true, extensions: []string{".exe", ".dll"}, longInline: []string{"--version", "--help"}},
	{names: []string{"dotnet"}, wholeWords: true, subcommands: []string{"exec"}, extensions: []string{".dll", ".exe"}},
	{
		names: []string{"deno", "bun"}, wholeWords: true, subcommands: []string{"run"}, longInline: []string{"-e", "--eval", "-p", "--print"},
		extensions: []string{".js", ".mjs", ".cjs", ".ts", ".mts", ".tsx", ".jsx"},
	},
}

// interpreterOf finds the interpreter by the name of its executable, which may
// end in a version: python3.12, ruby-3.1. Programs that are many in one, such as
// busybox, are known by the name that they were called by.
func interpreterOf(exe string, args []string) *interpreter {
	base := path.Base(strings.TrimSuffix(exe, " (deleted)"))
	if base == "busybox" || base == "toybox" {
		if len(args) == 0 {
			return nil
		}
		base = strings.TrimPrefix(path.Base(args[0]), "-")
	}
	base = strings.TrimRight(base, "0123456789.")
	base = strings.TrimRight(base, "-")
	for i := range interpreters {
		for _, name := range interpreters[i].names {
			if name == base {
				return &interpreters[i]
			}
		}
	}
	return nil
}

// scriptOf returns the file that an interpreter runs, as its command line has
// it, or "" where there is none: the program is no interpreter, reads standard
// input, or got its program in an option.
func scriptOf(exe string, args []string) string {
	in := interpreterOf(exe, args)
	if in == nil || len(args) < 2 {
		return ""
	}
	rest := args[1:]
	for len(rest) > 0 {
		word := rest[0]
		if word == "--" {
			rest = rest[1:]
			break
		}
		if len(word) < 2 || word[0] != '-' && (word[0] != '+' || in.inline != "cs") {
			break
		}
		if script, found := in.scriptOption(word, rest[1:]); found {
			return script
		}
		skip, inline := in.option(word)
		if inline || skip > len(rest) {
			return ""
		}
		rest = rest[skip:]
	}
	return in.firstFile(rest)
}

// scriptOption handles an option whose value is the script.
func (in *interpreter) scriptOption(word string, next []string) (script string, found bool) {
	for _, o := range in.scriptAfter {
		if word != o {
			continue
		}
		if len(next) == 0 {
			return "", true
		}
		return next[0], true
	}
	return "", false
}

// option returns how many words an option takes, and whether it says that there
// is no script.
func (in *interpreter) option(word string) (words int, inline bool) {
	name, _, hasValue := strings.Cut(word, "=")
	for _, o := range in.longInline {
		if name == o {
			return 1, true
		}
	}
	for _, o := range in.longValues {
		if name == o && !hasValue {
			return 2, false
		}
	}
	if strings.HasPrefix(word, "--") || in.wholeWords {
		return 1, false
	}
	for i, letter := range word[1:] {
		switch {
		case strings.ContainsRune(in.inline, letter):
			return 1, true
		case strings.ContainsRune(in.attached, letter):
			return 1, false
		case strings.ContainsRune(in.values, letter):
			if i+2 == len(word) {
				return 2, false
			}
			return 1, false
		}
	}
	return 1, false
}

// firstFile returns the first word that is a script.
func (in *interpreter) firstFile(rest []string) string {
	for _, sub := range in.subcommands {
		if len(rest) > 0 && rest[0] == sub {
			rest = rest[1:]
			for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
				rest = rest[1:]
			}
			break
		}
	}
	if len(rest) == 0 || rest[0] == "-" || rest[0] == "" {
		return ""
	}
	if len(in.extensions) == 0 {
		return rest[0]
	}
	for _, ext := range in.extensions {
		if strings.HasSuffix(rest[0], ext) {
			return rest[0]
		}
	}
	return ""
}

// ScriptOf returns the absolute path of the file that a program runs if it is an interpreter, by its command line and its working
// directory; "" if it runs none, or that cannot be told. For owners that describe processes by themselves.
func ScriptOf(executable string, args []string, cwd string) string {
	return absolute(scriptOf(executable, args), cwd)
}

// absolute resolves a script against the working directory; "" stays "".
func absolute(script, cwd string) string {
	switch {
	case script == "":
		return ""
	case path.IsAbs(script):
		return path.Clean(script)
	case !path.IsAbs(cwd):
		return ""
	}
	return path.Join(cwd, script)
}
