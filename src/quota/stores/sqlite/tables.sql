CREATE TABLE ledger (one INTEGER PRIMARY KEY, plans INTEGER NOT NULL, floor INTEGER NOT NULL);
CREATE TABLE plans (id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, api TEXT NOT NULL, body TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE keys (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, account TEXT, body TEXT NOT NULL,
    last_used INTEGER NOT NULL DEFAULT 0);
CREATE INDEX keys_by_account ON keys (account) WHERE account IS NOT NULL;
CREATE TABLE removed (number INTEGER PRIMARY KEY, id TEXT NOT NULL, account TEXT NOT NULL);
CREATE INDEX removed_by_id ON removed (id || char(10) || account || char(10) || printf('%020d', number));
CREATE INDEX removed_by_account ON removed (account || char(10) || id || char(10) || printf('%020d', number));
CREATE TABLE digests (digest BLOB PRIMARY KEY, key INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX keys_by_owner ON keys (coalesce(account, id), id);
CREATE TABLE key_plans (key INTEGER NOT NULL, api TEXT NOT NULL, plan INTEGER NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (key, api)) WITHOUT ROWID;
CREATE INDEX key_plans_by_plan ON key_plans (plan, id);
CREATE TABLE scheduled (key INTEGER NOT NULL, plan INTEGER NOT NULL, at INTEGER NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (key, plan)) WITHOUT ROWID;
CREATE INDEX scheduled_by_plan ON scheduled (plan, id);
CREATE TABLE accounts (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE account_entries (id TEXT PRIMARY KEY, parent TEXT, body TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX account_entries_by_parent ON account_entries (parent, id) WHERE parent IS NOT NULL;
CREATE TABLE counts (subject INTEGER PRIMARY KEY, version INTEGER NOT NULL, moving NOT NULL);
CREATE TABLE records (subject INTEGER PRIMARY KEY, dead_at INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX records_by_death ON records (dead_at);
CREATE TABLE remembered (subject INTEGER NOT NULL, name TEXT NOT NULL, until INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (subject, name)) WITHOUT ROWID;
CREATE INDEX remembered_by_end ON remembered (until);
CREATE TABLE events (cursor INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, key TEXT, account TEXT,
    body TEXT NOT NULL);
