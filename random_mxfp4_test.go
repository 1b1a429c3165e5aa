package coldload_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// mxModule is a module of MXFP4 with everything known that its tensors hold: rows of codes, of scales, and a bias.
type mxModule struct {
	n, k   int
	codes  []byte   // [N][K]
	scales []byte   // [N][K/32]
	bias   []uint16 // [N], BF16; nil for none
}

func randomMX(r *rand.Rand, n, k int, bias bool) *mxModule {
	m := &mxModule{n: n, k: k}
	for range n * k {
		m.codes = append(m.codes, byte(r.IntN(16)))
	}
	for range n * k / 32 {
		m.scales = append(m.scales, byte(80+r.IntN(80)))
	}
	for i := 0; bias && i < n; i++ {
		m.bias = append(m.bias, uint16(r.IntN(0x7F80)))
	}
	return m
}

// packed are the codes as the formats store them: two to a byte, the first in the low nibble.
func (m *mxModule) packed() (out []byte) {
	for i := 0; i < len(m.codes); i += 2 {
		out = append(out, m.codes[i]|m.codes[i+1]<<4)
	}
	return out
}

func (m *mxModule) biasBytes() (out []byte) {
	for _, b := range m.bias {
		out = binary.LittleEndian.AppendUint16(out, b)
	}
	return out
}

// mxRow is an output feature as it lies in the engine's tensors: of a module, or of none in the padding.
type mxRow struct {
	m   *mxModule
	row int
}

// code and scale are zero in the padding.
func (r mxRow) code(k int) byte {
	if r.m == nil || k >= r.m.k {
		return 0
	}
	return r.m.codes[r.row*r.m.k+k]
}

func (r mxRow) scale(g int) byte {
	if r.m == nil || g >= r.m.k/32 {
		return 0
	}
	return r.m.scales[r.row*r.m.k/32+g]
}

func (r mxRow) bias() uint16 {
	if r.m == nil {
		return 0
	}
	return r.m.bias[r.row]
}

// rowsOf lists the output features of some modules, each filled up to a share.
func rowsOf(share int, list ...*mxModule) (rows []mxRow) {
	for _, m := range list {
		for i := range m.n {
			rows = append(rows, mxRow{m, i})
		}
		rows = append(rows, make([]mxRow, share-m.n)...)
	}
	return rows
}

// mxMarlin are the words, scales and bias of LAYOUTS C1.1, C2 and C4, one code after the other.
func mxMarlin(rows []mxRow, k int) (words, scales, bias []byte) {
	n := len(rows)
	words = make([]byte, k*n/2)
	for c, row := range rows {
		for i := range k {
			word := i/16*2*n + 128*(c/64) + 16*(c%8) + 4*(i%8/2) + c%64/16
			nibble := 8*word + i%16/8 + 2*(c%16/8) + 4*(i%2)
			words[nibble/2] |= row.code(i) << (4 * (nibble % 2))
		}
	}
	for g := range k / 32 {
		for i := range n {
			c := i % 8
			swapped := c&4 | c&1<<1 | c>>1&1
			scales = append(scales, rows[i/64*64+8*swapped+i%64/8].scale(g))
		}
	}
	for i := range n {
		at := i/32*32 + 2*(i%32/8) + i%2 + 8*(i%8/2)
		if rows[0].m.bias != nil {
			bias = binary.LittleEndian.AppendUint16(bias, rows[at].bias())
		}
	}
	return words, scales, bias
}

// mxDense are the weights, rounded to BF16, which holds them exactly.
func mxDense(list ...*mxModule) (out []byte) {
	values := []float64{0, 0.5, 1, 1.5, 2, 3, 4, 6}
	for _, m := range list {
		for i, code := range m.codes {
			v := math.Ldexp(values[code&7], int(m.scales[i/32])-127)
			u := math.Float32bits(float32(v))
			out = binary.LittleEndian.AppendUint16(out, uint16(u>>16)|uint16(code>>3)<<15)
		}
	}
	return out
}

func roundUp(n, by int) int { return (n + by - 1) / by * by }

// mxStacks is a random gpt-oss: two stacks.
func mxStacks(r *rand.Rand, experts, hidden, inner int, bias bool) (tensors ckpt.List, gateUp, down []*mxModule) {
	for range experts {
		gateUp, down = append(gateUp, randomMX(r, 2*inner, hidden, bias)), append(down, randomMX(r, hidden, inner, bias))
	}
	for name, list := range map[string][]*mxModule{"gate_up_proj": gateUp, "down_proj": down} {
		var blocks, scales, biases []byte
		n, k := int64(list[0].n), int64(list[0].k)
		for _, m := range list {
			blocks, scales, biases = append(blocks, m.packed()...), append(scales, m.scales...), append(biases, m.biasBytes()...)
		}
		tensors = append(tensors, ckpt.T{Name: expertsAt + name + "_blocks", DType: safetensors.U8, Shape: []int64{int64(experts), n, k / 32, 16}, Data: blocks},
			ckpt.T{Name: expertsAt + name + "_scales", DType: safetensors.U8, Shape: []int64{int64(experts), n, k / 32}, Data: scales})
		if bias {
			tensors = append(tensors, ckpt.T{Name: expertsAt + name + "_bias", DType: safetensors.BF16, Shape: []int64{int64(experts), n}, Data: biases})
		}
	}
	return tensors, gateUp, down
}

// mxWant is the Outputs of a stack.
type mxWant struct {
	name    string
	experts [][]*mxModule // their members
	share   int           // output features of a member, padding included
	k       int           // input features, padding included
	own     bool          // dequantised it has the model's own name, and columns of output features
}

// outs are the Outputs in a layout.
func (w mxWant) outs(layout stages.Layout) map[string]rndOut {
	var words, scales, bias, weights []byte
	n, k := 0, 0
	for _, members := range w.experts {
		a, b, c := mxMarlin(rowsOf(w.share, members...), w.k)
		words, scales, bias = append(words, a...), append(scales, b...), append(bias, c...)
		n, k = 0, members[0].k
		for _, m := range members {
			n += m.n
		}
		dense := mxDense(members...)
		if w.own {
			dense = transposed(dense, n, k, 2)
		}
		weights = append(weights, dense...)
	}
	e, padded := int64(len(w.experts)), int64(w.share*len(w.experts[0]))
	rows, cols := int64(n), int64(k)
	outs := map[string]rndOut{}
	switch {
	case layout == stages.LayoutMarlin:
		outs[w.name+".qweight"] = rndOut{safetensors.I32, []int64{e, int64(w.k / 16), 2 * padded}, layout, words}
		outs[w.name+".scales"] = rndOut{safetensors.F8E8M0, []int64{e, int64(w.k / 32), padded}, layout, scales}
		if bias != nil {
			outs[w.name+".bias"] = rndOut{safetensors.BF16, []int64{e, padded}, layout, bias}
		}
	case w.own:
		outs[w.name] = rndOut{safetensors.BF16, []int64{e, cols, rows}, stages.LayoutRaw, weights}
	default:
		outs[w.name+".weight"] = rndOut{safetensors.BF16, []int64{e, rows, cols}, stages.LayoutRaw, weights}
	}
	return outs
}

// check compares the Outputs of both layouts with the formulas.
func (w mxWant) check(t *testing.T, marlin, dense outputs) {
	t.Helper()
	for layout, from := range map[stages.Layout]outputs{stages.LayoutMarlin: marlin, stages.LayoutDequant: dense} {
		for name, want := range w.outs(layout) {
			got, ok := from.Lookup(name)
			if d := want.differs(got.DType, got.Shape, got.Layout, got.Bytes); !ok || d != "" {
				t.Errorf("%s: %v, %s", name, ok, d)
			}
		}
	}
}

// TestRandomMXFP4 loads stacks of gpt-oss and experts of compressed-tensors of any shape and compares with the formulas of the layouts.
func TestRandomMXFP4(t *testing.T) {
	for seed := range uint64(24) {
		r := rand.New(rand.NewPCG(seed, 44))
		experts, hidden, inner, bias := 1+r.IntN(4), 32*(1+r.IntN(12)), 32*(1+r.IntN(8)), r.IntN(2) == 0
		load := func(build func(*ckpt.Builder) string, layout stages.Layout) outputs {
			b := ckpt.New(t)
			build(b)
			w := 1 + r.IntN(4)
			mem, _ := loadHost(t, b.Write(), coldload.Options{
				Layout: layout, Strict: true, Workers: coldload.Workers{Fetch: w, Decode: w, Repack: w}, Budget: int64(r.IntN(2)) * (2 << 20),
			})
			return mem
		}
		one := func(list []*mxModule) (out [][]*mxModule) {
			for _, m := range list {
				out = append(out, []*mxModule{m})
			}
			return out
		}
		t.Run(fmt.Sprintf("%d: %d x [%d, %d], bias %v", seed, experts, hidden, inner, bias), func(t *testing.T) {
			tensors, gateUp, down := mxStacks(r, experts, hidden, inner, bias)
			build := only(func(b *ckpt.Builder) {
				b.Shard(single, tensors)
				b.JSON("config.json", map[string]any{"model_type": "gpt_oss", "dtype": "bfloat16", "num_local_experts": experts, "quantization_config": mxfp4Config})
			})
			marlin, dense := load(build, stages.LayoutMarlin), load(build, stages.LayoutDequant)
			mxWant{expertsAt + "gate_up_proj", one(gateUp), roundUp(2*inner, 256), roundUp(hidden, 256), true}.check(t, marlin, dense)
			mxWant{expertsAt + "down_proj", one(down), roundUp(hidden, 256), roundUp(inner, 128), true}.check(t, marlin, dense)

			// The same experts by themselves: gate and up are filled up each, the hidden features are whole tiles.
			hidden = roundUp(hidden, 128)
			var list ckpt.List
			var pairs, downs [][]*mxModule
			for e := range experts {
				at := fmt.Sprintf("%s%d.", expertsAt, e)
				gate, up, down := randomMX(r, inner, hidden, false), randomMX(r, inner, hidden, false), randomMX(r, hidden, inner, false)
				for name, m := range map[string]*mxModule{"w1": gate, "w3": up, "w2": down} {
					list = append(list, ckpt.T{Name: at + name + ".weight_packed", DType: safetensors.U8, Shape: []int64{int64(m.n), int64(m.k / 2)}, Data: m.packed()},
						ckpt.T{Name: at + name + ".weight_scale", DType: safetensors.U8, Shape: []int64{int64(m.n), int64(m.k / 32)}, Data: m.scales})
				}
				pairs, downs = append(pairs, []*mxModule{gate, up}), append(downs, []*mxModule{down})
			}
			build = only(func(b *ckpt.Builder) {
				b.Shard(single, list)
				b.JSON("config.json", map[string]any{"model_type": "mixtral", "dtype": "bfloat16", "quantization_config": mxfp4Packed(nil, nil)})
			})
			marlin, dense = load(build, stages.LayoutMarlin), load(build, stages.LayoutDequant)
			mxWant{expertsAt + "gate_up_proj", pairs, roundUp(inner, 64), hidden, false}.check(t, marlin, dense)
			mxWant{expertsAt + "down_proj", downs, hidden, roundUp(inner, 64), false}.check(t, marlin, dense)
		})
	}
}
