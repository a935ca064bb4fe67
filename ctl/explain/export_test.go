package explain

import (
	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// LiveBox is a Box whose instance is attached and sees real packets.
func LiveBox(plane *dataplane.Dataplane, features compile.Features) *Box {
	return &Box{
		plane: plane, features: features,
		backends: map[BackendKey]uint16{}, states: map[BackendKey]BackendState{}, ports: map[BackendKey]uint16{}, onDown: map[BackendKey]model.OnDown{},
		rings: map[uint32][]lb.Member{}, exits: map[string]Exit{}, interfaces: map[int]boxInterface{},
	}
}

// Reasons counts packets by reason.
func (b *Box) Reasons() ([]abi.Counter, error) {
	var numbers []uint32
	for _, number := range b.ids.Interfaces {
		numbers = append(numbers, uint32(number))
	}
	return b.plane.Reasons(numbers...)
}

// Backends are those of the snapshot in force.
func (b *Box) Backends() []compile.Backend { return b.tables.Backends }

// Load loads the program of a hook, if it isn't yet.
func (b *Box) Load(hook dataplane.Hook) error {
	_, err := b.plane.Program(hook)
	return err
}
