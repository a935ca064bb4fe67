package history

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// Options say what is kept.
type Options struct {
	Dir     string        // made when it isn't there
	Minutes time.Duration // how long intervals of a minute are kept,
	Fives   time.Duration // of five minutes,
	Hours   time.Duration // and of an hour, and of a day: those are there to be quick
	MaxSize int64         // of all files together, in bytes; at least MinSize
	Top     int           // rows of each table that are kept of an interval
}

func (o Options) keep() [levelCount]time.Duration {
	return [levelCount]time.Duration{o.Minutes, o.Fives, o.Hours, o.Hours}
}

// MinSize is the least that MaxSize may be: room for some hundred intervals.
func MinSize(top int) int64 { return max(4<<20, int64(top)<<16) }

const (
	fileName  = "flows.db"
	setAside  = fileName + ".corrupt" // what becomes of a file that can't be read
	walSuffix = "-wal"

	pageSize    = 4096
	busyTimeout = 5 * time.Second // for others that use the file: a sqlite3, a query

	// minuteRow is at most what a minute takes of the log for each of Top: a row of 100 bytes in each table at each level, read before
	// it is written, so that pages are in the log once.
	minuteRow = 100 * tableCount * levelCount
	// dropAtOnce bounds one that makes room, in intervals.
	dropAtOnce = 16

	kindCache = 1 << 16
)

// Store is the file. It is for one goroutine, but for Query.
type Store struct {
	options Options
	path    string
	conn    *sqlite3.Conn
	stmts   map[string]*sqlite3.Stmt
	kept    [levelCount]int64 // intervals that begin before aren't whole: they were dropped, or are going to be
	ids     map[kind]kindRow
	pace    pace
}

// pace is when the last write was, by the time of day and by a clock that nobody sets.
type pace struct {
	uptime func() time.Duration // of the process
	wall   time.Time
	at     time.Duration
	calm   time.Duration // until then the clock is too young to throw anything away by
}

// jumpGrace is how long nothing expires by a clock that jumped ahead: a mistake that is mended meanwhile costs nothing.
const jumpGrace = 24 * time.Hour

// jumped says whether the time of day moved ahead more than time passed, now or a short while ago.
func (p *pace) jumped(now time.Time) bool {
	at := p.uptime()
	if ahead := now.Round(0).Sub(p.wall) - (at - p.at); !p.wall.IsZero() && ahead > time.Hour {
		p.calm = at + jumpGrace
	}
	p.wall, p.at = now.Round(0), at
	return at < p.calm
}

// kindRow is where a kind is in the file.
type kindRow struct{ id, used int64 }

// Open opens the file, or makes it. What can't be read is set aside and begun anew: then problem says so. Of files set aside, one
// is kept.
func Open(options Options, now time.Time) (s *Store, problem error, err error) {
	options.Top = max(options.Top, 1)
	options.MaxSize = max(options.MaxSize, MinSize(options.Top))
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("open history: %w", err)
	}
	begun := time.Now()
	s = &Store{options: options, path: filepath.Join(options.Dir, fileName), pace: pace{uptime: func() time.Duration { return time.Since(begun) }}}
	err = s.open(now)
	if corrupt(err) {
		problem, err = s.SetAside(err, now)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open history in %s: %w", s.path, err)
	}
	return s, problem, nil
}

// errForeign is a file that something else wrote.
var errForeign = errors.New("it is not a history of flows")

// corrupt says whether an error means that the file can't be used any more.
func corrupt(err error) bool {
	return errors.Is(err, sqlite3.CORRUPT) || errors.Is(err, sqlite3.NOTADB) || errors.Is(err, sqlite3.IOERR_DATA) ||
		errors.Is(err, errForeign)
}

// SetAside renames a file that can't be used, because of what cause says, and begins a new one.
func (s *Store) SetAside(cause error, now time.Time) (problem, err error) {
	s.Close()
	aside := filepath.Join(s.options.Dir, setAside)
	if err := os.Rename(s.path, aside); err != nil {
		return nil, errors.Join(cause, err)
	}
	// What the log beside it holds belongs to the old file, and would be taken for the new one's.
	if err := os.Rename(s.path+walSuffix, aside+walSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(cause, err)
	}
	if err := os.Remove(s.path + "-shm"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(cause, err)
	}
	if err := s.open(now); err != nil {
		return nil, err
	}
	return fmt.Errorf("the history could not be read and was set aside as %s; it begins anew: %w", aside, cause), nil
}

func (s *Store) open(now time.Time) error {
	conn, err := sqlite3.Open(s.path)
	if err != nil {
		return err
	}
	s.conn, s.stmts, s.ids = conn, map[string]*sqlite3.Stmt{}, map[kind]kindRow{}
	if err := s.prepare(now); err != nil {
		s.Close()
		return err
	}
	return nil
}

// prepare sets the connection up, and the file if it is new.
func (s *Store) prepare(now time.Time) error {
	if err := s.conn.BusyTimeout(busyTimeout); err != nil {
		return err
	}
	application, err := s.number("PRAGMA application_id")
	if err != nil {
		return err
	}
	found, err := s.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	switch {
	case application == 0 && found == 0:
		if err := s.create(); err != nil {
			return err
		}
	case application != applicationID:
		return errForeign
	case found == 2:
		err := s.transaction(func() error {
			return s.conn.Exec(fmt.Sprintf("ALTER TABLE kinds ADD COLUMN %s; PRAGMA user_version = %d", sampleColumn, version))
		})
		if err != nil {
			return err
		}
	case found != version:
		return fmt.Errorf("it has version %d, this gardu writes %d: move it away to begin anew", found, version)
	}
	// FULL: what was written survives a loss of power too. Once a minute that costs nothing.
	settings := fmt.Sprintf(`PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = %d;
		PRAGMA wal_autocheckpoint = %d; PRAGMA max_page_count = %d`, s.walMax()/2, min(1000, s.walMax()/4/pageSize), s.pagesMax())
	if err := s.conn.Exec(settings); err != nil {
		return err
	}
	return s.readLevels(now)
}

// create makes the tables. A crash before the end leaves a file that is made again.
func (s *Store) create() error {
	tables, err := s.number("SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return err
	}
	if tables > 0 {
		return errForeign
	}
	if err := s.conn.Exec(fmt.Sprintf("PRAGMA page_size = %d; PRAGMA auto_vacuum = INCREMENTAL", pageSize)); err != nil {
		return err
	}
	if err := s.conn.EnableChecksums("main"); err != nil {
		return err
	}
	return s.transaction(func() error { return s.conn.Exec(schema()) })
}

// readLevels finds out from when on each level is whole.
func (s *Store) readLevels(now time.Time) error {
	for level, length := range levels {
		since, err := s.number(fmt.Sprintf("SELECT coalesce((SELECT since FROM levels WHERE seconds = %d), -1)", length))
		if err != nil {
			return err
		}
		s.kept[level] = since
		if since < 0 || since > now.Unix() { // a new file, or the clock was ahead and is right now
			s.kept[level] = s.cutoff(level, now)
		}
	}
	return nil
}

// cutoff is when the oldest interval begins that is to be kept.
func (s *Store) cutoff(level int, now time.Time) int64 {
	return floor(now.Add(-s.options.keep()[level]).Unix(), levels[level])
}

// Close closes the file.
func (s *Store) Close() error {
	if s.conn == nil {
		return nil
	}
	for _, stmt := range s.stmts {
		stmt.Close() // says again what its last use said
	}
	err := s.conn.Close()
	s.conn, s.stmts = nil, nil
	return err
}

// walMax and pagesMax part MaxSize between the file and the log before it.
func (s *Store) walMax() int64   { return min(s.options.MaxSize/4, 64<<20) }
func (s *Store) pagesMax() int64 { return (s.options.MaxSize - s.walMax()) / pageSize }

// Size is what the files take on disk, without one that was set aside.
func (s *Store) Size() (size int64) {
	for _, path := range []string{s.path, s.path + walSuffix, s.path + "-shm"} {
		if info, err := os.Stat(path); err == nil {
			size += info.Size()
		}
	}
	return size
}

// Since is the beginning of the oldest interval of a minute, five minutes, an hour and a day that is kept.
func (s *Store) Since() (since [levelCount]time.Time) {
	for level, at := range s.kept {
		since[level] = time.Unix(at, 0)
	}
	return since
}

// number returns the first column of the only row.
func (s *Store) number(sql string) (int64, error) {
	stmt, _, err := s.conn.Prepare(sql)
	if err != nil {
		return 0, err
	}
	defer stmt.Close()
	if !stmt.Step() {
		return 0, stmt.Err()
	}
	return stmt.ColumnInt64(0), nil
}

// stmt prepares a statement once. Integers are bound, and it has to be reset after use, which run does.
func (s *Store) stmt(sql string, args ...int64) (*sqlite3.Stmt, error) {
	stmt := s.stmts[sql]
	if stmt == nil {
		var err error
		if stmt, _, err = s.conn.Prepare(sql); err != nil {
			return nil, err
		}
		s.stmts[sql] = stmt
	}
	for i, arg := range args {
		if err := stmt.BindInt64(i+1, arg); err != nil {
			return nil, err
		}
	}
	return stmt, nil
}

func (s *Store) run(sql string, args ...int64) error {
	stmt, err := s.stmt(sql, args...)
	if err != nil {
		return err
	}
	return stmt.Exec()
}

// transaction is all of do, or nothing.
func (s *Store) transaction(do func() error) error {
	if err := s.conn.Exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := do()
	if err == nil {
		if err = s.conn.Exec("COMMIT"); err == nil {
			return nil
		}
	}
	clear(s.ids) // some may not be in the file
	if s.conn.GetAutocommit() {
		return err // it has been rolled back by itself
	}
	return errors.Join(err, s.conn.Exec("ROLLBACK"))
}

// Write writes the minutes of a batch, oldest first, and takes each out of it that it has written. Late is what was too old for
// all levels, and is gone. First it makes room.
func (s *Store) Write(b *Batch, now time.Time) (late Counts, err error) {
	if err := s.checkLog(); err != nil {
		return late, err
	}
	if !s.pace.jumped(now) {
		if err := s.expire(now); err != nil {
			return late, fmt.Errorf("drop what is older than is to be kept: %w", err)
		}
	}
	if err := s.makeRoom(now); err != nil {
		return late, fmt.Errorf("make room: %w", err)
	}
	for len(b.minutes) > 0 {
		chunk := b.oldest(max(1, int(s.walMax()/2)/(minuteRow*s.options.Top)))
		if err := s.transaction(func() error { return s.writeMinutes(b, chunk) }); err != nil {
			return late, fmt.Errorf("write: %w", err)
		}
		for _, at := range chunk {
			if floor(at, levels[levelCount-1]) < s.kept[levelCount-1] {
				late = late.Plus(b.minutes[at][totals].sum())
			}
			delete(b.minutes, at)
		}
	}
	return late, nil
}

// checkLog bounds the log, which can't be emptied while somebody reads what is older.
func (s *Store) checkLog() error {
	size := func() int64 {
		info, err := os.Stat(s.path + walSuffix)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	if size() <= s.walMax() {
		return nil
	}
	_, _, err := s.conn.WALCheckpoint("main", sqlite3.CHECKPOINT_TRUNCATE)
	if now := size(); now > s.walMax() {
		return errors.Join(fmt.Errorf("%s has %d bytes, and somebody reads what is older: end that", s.path+walSuffix, now), err)
	}
	return nil
}

// writeMinutes adds minutes to their intervals of all levels.
func (s *Store) writeMinutes(b *Batch, chunk []int64) error {
	for level, length := range levels {
		for i := 0; i < len(chunk); {
			at := floor(chunk[i], length)
			sum := newInterval()
			for ; i < len(chunk) && floor(chunk[i], length) == at; i++ {
				if at >= s.kept[level] {
					sum.merge(b.minutes[chunk[i]], b.kinds)
				}
			}
			if at < s.kept[level] {
				continue
			}
			if err := s.writeInterval(level, at, sum, b.kinds); err != nil {
				return err
			}
		}
		if err := s.run("INSERT OR REPLACE INTO levels (seconds, since) VALUES (?, ?)", length, s.kept[level]); err != nil {
			return err
		}
	}
	return nil
}

// writeInterval adds to what the file has of an interval.
func (s *Store) writeInterval(level int, at int64, i *interval, ks *kinds) error {
	length := levels[level]
	for table := range i {
		if err := s.load(table, level, at, i[table], ks); err != nil {
			return err
		}
	}
	i.cut(s.options.Top, ks)
	for table, rows := range i {
		if err := s.run(deleteSQL(table), length, at, at+length); err != nil {
			return err
		}
		if err := s.insert(table, length, at, rows); err != nil {
			return err
		}
	}
	return nil
}

// load adds what the file has of an interval to rows.
func (s *Store) load(table, level int, at int64, into rows, ks *kinds) error {
	stmt, err := s.stmt(selectSQL(table), levels[level], at, at+levels[level])
	if err != nil {
		return err
	}
	known := map[int64]*kind{}
	ends := endCount(table)
	for stmt.Step() {
		k := readEnds(stmt, table)
		id := stmt.ColumnInt64(ends)
		if k.kind = known[id]; k.kind == nil {
			found, err := readKind(s, id)
			if err != nil {
				return errors.Join(err, stmt.Reset())
			}
			k.kind = ks.of(found)
			known[id] = k.kind
		}
		into.add(k, readCounts(stmt, ends+1))
	}
	return errors.Join(stmt.Err(), stmt.Reset())
}

// readEnds reads the ends of a row; those of others are zero.
func readEnds(stmt *sqlite3.Stmt, table int) (k key) {
	at := 0
	addr := func() (addr netip.Addr) {
		if text := stmt.ColumnRawText(at); len(text) > 0 {
			addr.UnmarshalText(text) // what isn't one is as good as others
		}
		at++
		return addr
	}
	if table == sources || table == pairs {
		k.src = addr()
	}
	if table == destinations || table == pairs {
		k.dst = addr()
		k.dport = uint16(stmt.ColumnInt64(at))
	}
	return k
}

func readCounts(stmt *sqlite3.Stmt, at int) Counts {
	n := func(i int) uint64 { return uint64(stmt.ColumnInt64(at + i)) }
	return Counts{n(0), n(1), n(2), n(3), n(4)}
}

// preparer is a connection that keeps its statements.
type preparer interface {
	stmt(sql string, args ...int64) (*sqlite3.Stmt, error)
}

func readKind(from preparer, id int64) (k kind, err error) {
	stmt, err := from.stmt("SELECT proto, vlan, verdict, reason, rule, service, backend, interface, sample FROM kinds WHERE id = ?", id)
	if err != nil {
		return k, err
	}
	if !stmt.Step() {
		return k, errors.Join(stmt.Err(), stmt.Reset(), fmt.Errorf("there is no kind %d: %w", id, sqlite3.CORRUPT))
	}
	k = kind{
		other: stmt.ColumnType(0) == sqlite3.NULL,
		proto: uint8(stmt.ColumnInt64(0)), vlan: uint16(stmt.ColumnInt64(1)), verdict: stmt.ColumnText(2), reason: stmt.ColumnText(3),
		rule: stmt.ColumnText(4), service: stmt.ColumnText(5), backend: stmt.ColumnText(6), ifaceName: stmt.ColumnText(7),
		sample: uint16(stmt.ColumnInt64(8)),
	}
	return k, stmt.Reset()
}

// insert writes rows, the largest first.
func (s *Store) insert(table int, length, at int64, rows rows) error {
	sorted := make([]row, 0, len(rows))
	for k, c := range rows {
		sorted = append(sorted, row{k, c})
	}
	slices.SortFunc(sorted, byBytes)
	for n, r := range sorted {
		if err := s.insertRow(table, length, at, int64(n), &r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) insertRow(table int, length, at, n int64, r *row) error {
	id, err := s.kindID(r.kind, at)
	if err != nil {
		return err
	}
	stmt, err := s.stmt(insertSQL(table), length, at, n)
	if err != nil {
		return err
	}
	b := binder{stmt: stmt, at: 4}
	if table == sources || table == pairs {
		b.addr(r.src)
	}
	if table == destinations || table == pairs {
		b.addr(r.dst)
		b.number(uint64(r.dport), r.dst.IsValid())
	}
	for _, value := range []uint64{uint64(id), r.Flows, r.Packets, r.Bytes, r.PacketsReply, r.BytesReply} {
		b.number(value, true)
	}
	return cmp.Or(b.err, stmt.Exec())
}

// binder binds one value after the other.
type binder struct {
	stmt *sqlite3.Stmt
	at   int
	buf  [64]byte
	err  error
}

func (b *binder) done(err error) {
	b.at++
	b.err = cmp.Or(b.err, err)
}

func (b *binder) number(value uint64, known bool) {
	if !known {
		b.done(b.stmt.BindNull(b.at))
		return
	}
	b.done(b.stmt.BindInt64(b.at, int64(value)))
}

func (b *binder) addr(addr netip.Addr) {
	if !addr.IsValid() {
		b.done(b.stmt.BindNull(b.at))
		return
	}
	b.done(b.stmt.BindRawText(b.at, addr.AppendTo(b.buf[:0])))
}

func (b *binder) text(value string, known bool) {
	if !known {
		b.done(b.stmt.BindNull(b.at))
		return
	}
	b.done(b.stmt.BindText(b.at, value))
}

// kind binds all columns of a kind.
func (b *binder) kind(k *kind) {
	b.number(uint64(k.proto), !k.other)
	b.number(uint64(k.vlan), !k.other)
	b.text(k.verdict, true)
	for _, value := range []string{k.reason, k.rule, k.service, k.backend, k.ifaceName} {
		b.text(value, !k.other)
	}
	b.number(uint64(k.sample), true)
}

// kindID returns the number of a kind, which is in use at a time.
func (s *Store) kindID(k *kind, at int64) (int64, error) {
	known, found := s.ids[*k]
	if !found {
		var err error
		if known, err = s.findKind(k, at); err != nil {
			return 0, err
		}
	}
	if slack := levels[levelCount-1]; at-known.used >= slack {
		if err := s.run("UPDATE kinds SET used = ? WHERE id = ?", at, known.id); err != nil {
			return 0, err
		}
		known.used = at
	}
	if len(s.ids) >= kindCache {
		clear(s.ids)
	}
	s.ids[*k] = known
	return known.id, nil
}

func (s *Store) findKind(k *kind, at int64) (kindRow, error) {
	stmt, err := s.stmt(`SELECT id, used FROM kinds WHERE proto IS ? AND vlan IS ? AND verdict IS ? AND reason IS ? AND rule IS ?
		AND service IS ? AND backend IS ? AND interface IS ? AND sample IS ?`)
	if err != nil {
		return kindRow{}, err
	}
	b := binder{stmt: stmt, at: 1}
	if b.kind(k); b.err != nil {
		return kindRow{}, b.err
	}
	if stmt.Step() {
		return kindRow{stmt.ColumnInt64(0), stmt.ColumnInt64(1)}, stmt.Reset()
	}
	if err := errors.Join(stmt.Err(), stmt.Reset()); err != nil {
		return kindRow{}, err
	}
	stmt, err = s.stmt(`INSERT INTO kinds (proto, vlan, verdict, reason, rule, service, backend, interface, sample, used)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return kindRow{}, err
	}
	b = binder{stmt: stmt, at: 1}
	b.kind(k)
	b.done(stmt.BindInt64(b.at, at))
	if b.err != nil {
		return kindRow{}, b.err
	}
	if err := stmt.Exec(); err != nil {
		return kindRow{}, err
	}
	return kindRow{s.conn.LastInsertRowID(), at}, nil
}
