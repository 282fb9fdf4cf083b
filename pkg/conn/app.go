package conn

// App is what a person calls an app, as far as it can be told from a process: package appid and docs/identity.md say how.
type App struct {
	// ID stays the same when the app is updated, restarted or mounted anew: its kind, a colon, and a name such as
	// "flatpak:org.mozilla.firefox" or "path:/opt/tool-*/bin/tool". Empty if nothing is known.
	ID   string  `json:"id,omitempty"`
	Kind AppKind `json:"kind,omitempty"`
	// Name is short and for people.
	Name string `json:"name,omitempty"`
	// Unit is the systemd service that the process is of: "ssh.service", or "user/foo.service" if a user's own service manager
	// runs it.
	Unit string `json:"unit,omitempty"`
	// Deleted tells that the executable is not in its place any more, such as after an update.
	Deleted bool `json:"deleted,omitempty"`
}

// AppKind says what an App is known by.
type AppKind string

// The kinds. AppContainer, AppFlatpak, AppSnap and AppImage stand for everything that runs inside.
const (
	AppPath      AppKind = "path"
	AppScript    AppKind = "script"
	AppWine      AppKind = "wine"
	AppImage     AppKind = "appimage"
	AppFlatpak   AppKind = "flatpak"
	AppSnap      AppKind = "snap"
	AppContainer AppKind = "container"
	AppMemfd     AppKind = "memfd"
	// AppSandbox is anything else whose executable is not the host's file at its path.
	AppSandbox AppKind = "sandbox"
)
