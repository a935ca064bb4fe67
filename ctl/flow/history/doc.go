// Package history keeps what flows did, added up, for as long as wanted and in as much disk as allowed: who talked to whom a minute, an
// hour or a month ago.
//
// A Roller adds reports up by minute, in memory; a Store writes them to an SQLite file and answers queries from it; a History
// is both, with the writing once a minute in between. What a crash loses is what was reported since the last write, so a minute's
// worth at most; a query writes first. Each write is one transaction or several, and each holds whole minutes at all levels, so the
// file is consistent at any moment.
//
// # What is kept
//
// Counts by interval, of four lengths: minutes, five minutes and hours, each for a time of its own, and days (of UTC) for as long as
// hours, so that a month is quick to look at. In each interval there are four tables with the same sums, to the packet:
//
//	totals         by kind
//	sources        by source and kind
//	destinations   by destination, port and kind
//	pairs          by source, destination, port and kind
//
// A kind is all else that flows have in common: protocol, VLAN, verdict, reason, rule, service, backend and interface. Of each
// table only the first rows are kept, half of them by bytes and half by packets; the rest is added up by kind in rows whose source,
// destination and port are NULL: the others. Of kinds too only the first are kept, and the rest added up by verdict.
// A filter may not be able to tell about others; what it can't tell is in the answer as Undecided.
//
// Source ports are not kept, and ports only of protocols that have them.
//
// # The file
//
// It can be read with sqlite3 while the daemon writes it. Times are Unix seconds, addresses text, bytes IP bytes, and seconds is the
// length of an interval: 60, 300, 3600 or 86400. The tables in a query must be of one length, since each holds the same packets.
//
//	SELECT src, sum(bytes + bytes_reply) AS n FROM sources
//	 WHERE seconds = 3600 AND time >= unixepoch('now', '-30 days') GROUP BY src ORDER BY n DESC LIMIT 10;
//
//	SELECT datetime(time, 'unixepoch') AS at, rule, sum(packets) FROM totals JOIN kinds ON kinds.id = kind
//	 WHERE seconds = 300 AND verdict = 'drop' GROUP BY time, rule;
//
// Each page has a checksum, in bytes that SQLite itself leaves alone: sqlite3 can read the file, but should not write to it.
package history
