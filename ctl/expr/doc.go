// Package expr reads the small language that picks flows, events and packets: `gardu flows 'src in 198.51.100.0/24 and dport 443'`.
//
//	expression = and { "or" and }
//	and        = unary { "and" unary }
//	unary      = "not" unary | "(" expression ")" | test
//	test       = key [ "in" | "=" | "!=" | "<" | "<=" | ">" | ">=" ] value { "," value }
//
// A test without an operator means "in": any of the values. Addresses are a prefix or an address; numbers a
// number or a range lo-hi, sizes with k, M or G (powers of 1000), ages like 90s or 5m; names stand for
// themselves, in double quotes when they hold a space or one of ( ) , < > = !. Keys, EventKeys and PacketKeys list what can be asked.
// `not` is plain negation: a flow without ports has port 0 and is found by `not dport 443`.
//
// ParseGroup reads the keys after --group, whose values part flows into groups: `src/24,service`.
//
// Parse makes an Expr, an immutable predicate without side effects that is safe for concurrent use. An
// expression that makes no sense is an *Error that points at the place.
package expr
