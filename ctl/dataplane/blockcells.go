package dataplane

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
)

// blockCells is the map block_cells, mapped, and how many blocks are in each cell.
type blockCells struct {
	memory []byte
	cells  []uint64 // abi.BlockCell, written at once: epoch, and above it lens
	blocks []uint32
}

func mapBlockCells(m *ebpf.Map) (blockCells, error) {
	memory, err := mapMemory(m)
	if err != nil {
		return blockCells{}, err
	}
	cells := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(memory))), abi.BlockCells)
	return blockCells{memory, cells, make([]uint32, abi.BlockCells)}, nil
}

func (c *blockCells) unmap() error {
	if c.memory == nil {
		return nil
	}
	return unix.Munmap(c.memory)
}

// add counts a block in its cells; those that hold none any more are empty.
func (c *blockCells) add(key abi.BlockKey, blocks int) {
	eachCell(key, func(i uint32) {
		c.blocks[i] += uint32(blocks)
		if c.blocks[i] == 0 {
			atomic.StoreUint64(&c.cells[i], 0)
		}
	})
}

// mark stores the epoch at which a block was added in its cells. False: it is in none.
func (c *blockCells) mark(key abi.BlockKey, epoch uint32) bool {
	lens := uint64(1) << (key.Plen / 64)
	if abi.Family(key.Family) == abi.FamilyV4 {
		lens = 1 << key.Plen >> (abi.BlockCell4 - abi.BlockSpread)
	}
	return eachCell(key, func(i uint32) {
		atomic.StoreUint64(&c.cells[i], (c.cells[i]>>32|lens)<<32|uint64(epoch))
	})
}

// sweep empties the cells that hold no block.
func (c *blockCells) sweep() {
	for i, blocks := range c.blocks {
		if blocks == 0 && c.cells[i] != 0 {
			atomic.StoreUint64(&c.cells[i], 0)
		}
	}
}

// eachCell calls yield with the cell of each address that the block covers, once for all that share one. False: the block is
// wide, and in no cell.
func eachCell(key abi.BlockKey, yield func(i uint32)) bool {
	bits, size := uint64(binary.BigEndian.Uint32(key.Addr[12:])>>(32-abi.BlockCell4)), int(abi.BlockCell4)
	if abi.Family(key.Family) == abi.FamilyV6 {
		bits, size = binary.BigEndian.Uint64(key.Addr[:])>>(64-abi.BlockCell6), int(abi.BlockCell6)
	}
	shorter := max(0, size-int(key.Plen))
	if shorter > int(abi.BlockSpread) {
		return false
	}
	for next := range uint64(1) << shorter {
		yield(uint32(mix(mix(mixSeed, uint64(key.Family)), bits+next)) & (uint32(abi.BlockCells) - 1))
	}
	return true
}

// mixSeed and mix are those of bpf/hash.h.
const mixSeed = 0x243F6A8885A308D3

func mix(h, word uint64) uint64 {
	h = (h ^ word) * 0x9E3779B97F4A7C15
	return h ^ h>>32
}
