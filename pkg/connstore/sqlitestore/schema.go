package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// migrations lead from one version of the schema (SQLite's user_version) to the next. Released ones are never changed.
//
// A row of connections has what is its own; what many have in common is in tables of distinct values. JSON holds what no query looks
// at. Times are nanoseconds since 1970, 0 if unknown. 0 is "none" where a column refers to another table.
//
//nolint:gochecknoglobals // a table that nobody writes
var migrations = []string{`
CREATE TABLE apps (id INTEGER PRIMARY KEY, path TEXT NOT NULL, script TEXT NOT NULL);
CREATE TABLE processes (
	id INTEGER PRIMARY KEY, app INTEGER NOT NULL, pid INTEGER NOT NULL, parent INTEGER NOT NULL, rest TEXT NOT NULL
);
CREATE TABLE names (id INTEGER PRIMARY KEY, domain TEXT NOT NULL, cnames TEXT NOT NULL);
CREATE TABLE reasons (
	id INTEGER PRIMARY KEY, code TEXT NOT NULL, text TEXT NOT NULL, rule TEXT NOT NULL, decider TEXT NOT NULL
);
CREATE TABLE ways (id INTEGER PRIMARY KEY, interface TEXT NOT NULL, split TEXT NOT NULL, tunnel TEXT NOT NULL);
CREATE TABLE connections (
	id INTEGER PRIMARY KEY, started INTEGER NOT NULL, ended INTEGER NOT NULL, seen INTEGER NOT NULL,
	verdict INTEGER NOT NULL, verdict_scope INTEGER NOT NULL, flags INTEGER NOT NULL, net_scope INTEGER NOT NULL,
	protocol INTEGER NOT NULL, local BLOB NOT NULL, local_port INTEGER NOT NULL, remote BLOB NOT NULL, remote_port INTEGER NOT NULL,
	icmp INTEGER NOT NULL, interface INTEGER NOT NULL,
	process INTEGER NOT NULL, name INTEGER NOT NULL, reason INTEGER NOT NULL, way INTEGER NOT NULL,
	packets INTEGER NOT NULL, received INTEGER NOT NULL, sent INTEGER NOT NULL
);
CREATE INDEX connections_live ON connections (id) WHERE ended = 0;
`,
	// DNS queries are rows among connections, with JSON of what such a query adds to its record.
	`ALTER TABLE connections ADD COLUMN query TEXT NOT NULL DEFAULT ''`,
}

// ErrNewer is wrapped when a newer version of this package wrote the database.
var ErrNewer = errors.New("sqlitestore: the database has a newer format")

// migrate brings the schema up to date, in one transaction for each step.
func migrate(ctx context.Context, db *sql.DB) error {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read the version of the schema: %w", err)
	}
	if version > len(migrations) {
		return fmt.Errorf("%w: %d, known are those up to %d", ErrNewer, version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		if err := step(ctx, db, version); err != nil {
			return fmt.Errorf("bring the schema from version %d to %d: %w", version, version+1, err)
		}
	}
	return nil
}

func step(ctx context.Context, db *sql.DB, from int) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err //nolint:wrapcheck // migrate says which step
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	if _, err = tx.ExecContext(ctx, migrations[from]); err != nil {
		return err //nolint:wrapcheck // migrate says which step
	}
	if _, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", from+1)); err != nil {
		return err //nolint:wrapcheck // migrate says which step
	}
	return tx.Commit() //nolint:wrapcheck // migrate says which step
}
