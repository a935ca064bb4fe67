package expr

import "net/netip"

// NodeKind says what a node of an expression is.
type NodeKind int

const (
	NodeAnd    NodeKind = iota // all of its parts hold
	NodeOr                     // one of them does
	NodeNot                    // the only one doesn't
	NodePrefix                 // the key's address is in Prefix
	NodeRange                  // the key's number is from Lo to Hi; when these are the wrong way round, none is
	NodeName                   // the key's name is Name
)

// Node is a part of an expression, as Match understands it.
type Node struct {
	Kind   NodeKind
	Of     []*Node // NodeAnd, NodeOr, NodeNot
	Key    string  // of the others: one of Keys that isn't made of two
	Prefix netip.Prefix
	Lo, Hi uint64
	Name   string
}

func (n *Node) not() *Node { return &Node{Kind: NodeNot, Of: []*Node{n}} }

// condition is a part of an expression, to be evaluated and to be read.
type condition struct {
	match predicate
	node  *Node
}
