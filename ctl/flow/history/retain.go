package history

import (
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// expire drops what is older than is to be kept.
func (s *Store) expire(now time.Time) error {
	dropped := false
	for level := range levels {
		cutoff := s.cutoff(level, now)
		if s.kept[level] > now.Unix() { // the clock was ahead
			s.kept[level] = cutoff
		}
		if cutoff <= s.kept[level] {
			continue
		}
		if err := s.drop(level, cutoff); err != nil {
			return err
		}
		dropped = dropped || level == levelCount-1
	}
	if !dropped {
		return nil
	}
	return s.dropKinds()
}

// drop removes the intervals of a level that begin before a time, some in each transaction.
func (s *Store) drop(level int, before int64) error {
	length := levels[level]
	s.kept[level] = before // nobody counts on them any more
	for {
		oldest, err := s.oldest(level)
		if err != nil || oldest >= before {
			return err
		}
		to := min(before, oldest+dropAtOnce*length)
		err = s.transaction(func() error {
			for table := range tableNames {
				if err := s.run(deleteSQL(table), length, oldest, to); err != nil {
					return err
				}
			}
			return s.run("INSERT OR REPLACE INTO levels (seconds, since) VALUES (?, ?)", length, before)
		})
		if err != nil {
			return err
		}
	}
}

const never = 1<<63 - 1

// oldest is when the first interval begins that the file has of a level.
func (s *Store) oldest(level int) (int64, error) {
	return s.number(fmt.Sprintf("SELECT coalesce(min(time), %d) FROM totals WHERE seconds = %d", int64(never), levels[level]))
}

func (s *Store) newest(level int) (int64, error) {
	return s.number(fmt.Sprintf("SELECT coalesce(max(time), 0) FROM totals WHERE seconds = %d", levels[level]))
}

// dropKinds removes kinds that no row is of any more.
func (s *Store) dropKinds() error {
	first := firstKept(s.kept) - 2*levels[levelCount-1] // used may be an interval old, and an interval is one long
	clear(s.ids)
	return s.transaction(func() error { return s.run("DELETE FROM kinds WHERE used < ?", first) })
}

// makeRoom drops the oldest tenth of each level while the file is nearly as large as it may be, and shrinks it when it may have
// been larger before.
func (s *Store) makeRoom(now time.Time) error {
	for {
		pages, free, err := s.pages()
		if err != nil {
			return err
		}
		if pages-free <= s.pagesMax()*7/8 {
			return s.shrink(pages, free)
		}
		dropped := false
		for level, length := range levels {
			oldest, err := s.oldest(level)
			if err != nil {
				return err
			}
			newest, err := s.newest(level)
			if err != nil {
				return err
			}
			if oldest >= newest {
				continue
			}
			dropped = true
			if err := s.drop(level, floor(oldest+max(length, (newest-oldest)/10), length)); err != nil {
				return err
			}
		}
		if !dropped {
			return sqlite3.FULL
		}
		if err := s.dropKinds(); err != nil {
			return err
		}
	}
}

func (s *Store) pages() (pages, free int64, err error) {
	if pages, err = s.number("PRAGMA page_count"); err != nil {
		return 0, 0, err
	}
	free, err = s.number("PRAGMA freelist_count")
	return pages, free, err
}

// shrink gives back what is free of a file that is larger than it may be.
func (s *Store) shrink(pages, free int64) error {
	if pages <= s.pagesMax() {
		return nil
	}
	for over := min(pages-s.pagesMax(), free); over > 0; over -= shrinkPages {
		if err := s.conn.Exec(fmt.Sprintf("PRAGMA incremental_vacuum(%d)", min(over, shrinkPages))); err != nil {
			return err
		}
	}
	if err := s.conn.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", s.pagesMax())); err != nil {
		return err
	}
	_, _, err := s.conn.WALCheckpoint("main", sqlite3.CHECKPOINT_TRUNCATE)
	return err
}

const shrinkPages = 100 // in a transaction
