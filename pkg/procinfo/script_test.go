package procinfo

import "testing"

func TestScriptOf(t *testing.T) {
	for _, test := range []struct {
		name, exe string
		args      []string
		want      string
	}{
		{"no interpreter", "/usr/bin/curl", []string{"curl", "script.py"}, ""},
		{"none", "/usr/bin/python3.12", []string{"python3"}, ""},
		{"no args", "/usr/bin/python3.12", nil, ""},
		{"python", "/usr/bin/python3.12", []string{"python3", "a.py", "b"}, "a.py"},
		{"python deleted", "/usr/bin/python3.12 (deleted)", []string{"python3", "a.py"}, "a.py"},
		{"python options", "/usr/bin/python3.12", []string{"python3", "-u", "-W", "ignore", "-Xdev", "/a.py"}, "/a.py"},
		{"python together", "/usr/bin/python3.12", []string{"python3", "-uBX", "dev", "/a.py"}, "/a.py"},
		{"python command", "/usr/bin/python3.12", []string{"python3", "-c", "import x", "a.py"}, ""},
		{"python command together", "/usr/bin/python3.12", []string{"python3", "-uc", "import x", "a.py"}, ""},
		{"python module", "/usr/bin/python3.12", []string{"python3", "-m", "http.server"}, ""},
		{"python stdin", "/usr/bin/python3.12", []string{"python3", "-"}, ""},
		{"python long value", "/usr/bin/python3.12", []string{"python3", "--check-hash-based-pycs", "never", "a.py"}, "a.py"},
		{"python long option", "/usr/bin/python3.12", []string{"python3", "--check-hash-based-pycs=never", "a.py"}, "a.py"},
		{"value missing", "/usr/bin/python3.12", []string{"python3", "-W"}, ""},
		{"pypy", "/opt/pypy3.9", []string{"pypy3", "a.py"}, "a.py"},
		{"bash", "/usr/bin/bash", []string{"/bin/bash", "./x.sh"}, "./x.sh"},
		{"bash options", "/usr/bin/bash", []string{"bash", "-eu", "-o", "pipefail", "x.sh"}, "x.sh"},
		{"bash options together", "/usr/bin/bash", []string{"bash", "-euo", "pipefail", "x.sh"}, "x.sh"},
		{"bash plus", "/usr/bin/bash", []string{"bash", "+x", "+O", "extglob", "x.sh"}, "x.sh"},
		{"bash command", "/usr/bin/bash", []string{"bash", "-ec", "curl x"}, ""},
		{"bash stdin", "/usr/bin/bash", []string{"bash", "-s", "x.sh"}, ""},
		{"bash rc", "/usr/bin/bash", []string{"bash", "--rcfile", "rc", "x.sh"}, "x.sh"},
		{"login shell", "/usr/bin/bash", []string{"-bash"}, ""},
		{"dash", "/usr/bin/dash", []string{"sh", "-e", "x.sh"}, "x.sh"},
		{"double dash", "/usr/bin/dash", []string{"sh", "--", "-x.sh"}, "-x.sh"},
		{"busybox", "/bin/busybox", []string{"sh", "x.sh"}, "x.sh"},
		{"busybox wget", "/bin/busybox", []string{"wget", "x"}, ""},
		{"perl", "/usr/bin/perl", []string{"perl", "-w", "-I", "lib", "-MSocket", "x.pl"}, "x.pl"},
		{"perl expression", "/usr/bin/perl", []string{"perl", "-ne", "print", "x"}, ""},
		{"ruby", "/usr/bin/ruby3.1", []string{"ruby", "-r", "json", "-Ilib", "x.rb"}, "x.rb"},
		{"node", "/usr/bin/node", []string{"node", "--require", "y.js", "--max-old-space-size=9", "x.js"}, "x.js"},
		{"node inspect", "/usr/bin/node", []string{"node", "inspect", "x.js"}, "x.js"},
		{"node eval", "/usr/bin/node", []string{"node", "-e", "1", "x.js"}, ""},
		{"php", "/usr/bin/php8.2", []string{"php", "-d", "a=b", "x.php"}, "x.php"},
		{"php file", "/usr/bin/php8.2", []string{"php", "-f", "x.php"}, "x.php"},
		{"lua", "/usr/bin/lua5.4", []string{"lua", "-l", "socket", "x.lua"}, "x.lua"},
		{"java jar", "/usr/lib/jvm/bin/java", []string{"java", "-Xmx1g", "-cp", "a:b", "-jar", "x.jar"}, "x.jar"},
		{"java class", "/usr/lib/jvm/bin/java", []string{"java", "-cp", "a", "com.example.Main"}, ""},
		{"mono", "/usr/bin/mono", []string{"mono", "--debug", "x.exe"}, "x.exe"},
		{"dotnet", "/usr/bin/dotnet", []string{"dotnet", "x.dll"}, "x.dll"},
		{"dotnet build", "/usr/bin/dotnet", []string{"dotnet", "build"}, ""},
		{"deno", "/usr/bin/deno", []string{"deno", "run", "--allow-net", "x.ts"}, "x.ts"},
		{"bun", "/usr/bin/bun", []string{"bun", "x.ts"}, "x.ts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := scriptOf(test.exe, test.args); got != test.want {
				t.Errorf("got %q; want %q", got, test.want)
			}
		})
	}
}

func TestAbsolute(t *testing.T) {
	for _, test := range []struct{ script, cwd, want string }{
		{"", "/a", ""},
		{"/x/../y", "/a", "/y"},
		{"./x", "/a", "/a/x"},
		{"../x", "/a/b", "/a/x"},
		{"x", "", ""},
		{"x", "(unreachable)/a", ""},
	} {
		if got := absolute(test.script, test.cwd); got != test.want {
			t.Errorf("absolute(%q, %q): got %q; want %q", test.script, test.cwd, got, test.want)
		}
	}
}
