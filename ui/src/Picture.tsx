// The live graph: services as boxes with a dot per instance, calls as lines that are wider with more of them, coloured by success.
import { layout, graphlib } from '@dagrejs/dagre';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { edgeId, edges, graph, selected, standings } from './live';
import type { Edge, Node, NodeWorkload } from './messages';
import { edgeTone, millis, outcome, perSecond, standingTone, stateTone, type Tone } from './words';

const WIDTH = 158;
const HEIGHT = 66;
const PLATE = 106;
const DOTS_SHOWN = 9;
const LARGEST = 1.25;
const READABLE = 0.8;
const SMALLEST = 0.5;
const GAP = 30;
const SUBTITLE = 22; // characters

type Direction = 'LR' | 'TB';

interface Placed { node: Node; x: number; y: number }
interface Drawn { key: string; points: { x: number; y: number }[]; label: { x: number; y: number } }
interface Room { width: number; height: number }
interface Layout { width: number; height: number; nodes: Placed[]; lines: Map<string, Drawn> }

// From left to right while that can be read in the room there is; else in whichever direction the text is larger.
function fitting(nodes: Node[], from: Edge[], room: Room): Layout {
  const met = new Set(from.flatMap((edge) => [edge.source, edge.destination]));
  const joined = nodes.filter((node) => met.has(node.id)), alone = nodes.filter((node) => !met.has(node.id));
  const made = (direction: Direction) => beneath(arrange(joined, from, direction), alone, room);
  const across = made('LR');
  if (scale(across, room) >= READABLE) return across;
  const down = made('TB');
  return scale(down, room) > scale(across, room) ? down : across;
}

// What is smaller than that nobody reads: it is scrolled instead.
function scale(made: Layout, room: Room): number {
  return Math.max(SMALLEST, Math.min(room.width / made.width, room.height / made.height, LARGEST));
}

// Whoever neither calls nor is called stands in rows under the picture, and makes it no smaller than it must.
function beneath(made: Layout, alone: Node[], room: Room): Layout {
  if (!alone.length) return made;
  const fit = Math.floor((Math.max(made.width, room.width) - GAP) / (WIDTH + GAP));
  const columns = Math.max(1, Math.min(alone.length, fit));
  const left = Math.max(8, (made.width - columns * (WIDTH + GAP) + GAP) / 2);
  const nodes = alone.map((node, index) => ({
    node,
    x: left + WIDTH / 2 + (index % columns) * (WIDTH + GAP),
    y: made.height + GAP / 2 + HEIGHT / 2 + Math.floor(index / columns) * (HEIGHT + GAP / 2),
  }));
  const last = nodes[nodes.length - 1]!;
  const width = Math.max(made.width, left + columns * (WIDTH + GAP) - GAP + 8);
  const shift = (width - made.width) / 2;
  const centred = moved(made, shift);
  return { ...centred, width, height: last.y + HEIGHT / 2 + 12, nodes: [...centred.nodes, ...nodes] };
}

function moved(made: Layout, by: number): Layout {
  const to = (point: { x: number; y: number }) => ({ x: point.x + by, y: point.y });
  const lines = [...made.lines].map(([key, line]) => [key, { key, points: line.points.map(to), label: to(line.label) }] as const);
  return { ...made, nodes: made.nodes.map((placed) => ({ ...placed, x: placed.x + by })), lines: new Map(lines) };
}

function arrange(nodes: Node[], from: Edge[], rankdir: Direction): Layout {
  if (!nodes.length) return { width: 0, height: 0, nodes: [], lines: new Map() };
  const g = new graphlib.Graph({ multigraph: true });
  g.setGraph({ rankdir, nodesep: 30, ranksep: 62, edgesep: 20, marginx: 8, marginy: 12 });
  g.setDefaultEdgeLabel(() => ({}));
  for (const node of nodes) g.setNode(node.id, { width: WIDTH, height: HEIGHT });
  for (const edge of from) {
    if (g.hasNode(edge.source) && g.hasNode(edge.destination)) {
      g.setEdge(edge.source, edge.destination, { width: PLATE, height: 38, labelpos: 'c' }, edgeId(edge));
    }
  }
  layout(g);
  const lines = new Map<string, Drawn>();
  for (const reference of g.edges()) {
    const edge = g.edge(reference);
    const key = reference.name ?? '';
    lines.set(key, { key, points: edge.points, label: { x: edge.x ?? 0, y: edge.y ?? 0 } });
  }
  const placed = nodes.map((node) => ({ node, x: g.node(node.id).x, y: g.node(node.id).y }));
  const size = g.graph();
  return { width: size.width ?? 0, height: size.height ?? 0, nodes: placed, lines };
}

function smooth(points: { x: number; y: number }[]): string {
  const [first, ...rest] = points;
  if (!first) return '';
  let path = `M${first.x},${first.y}`;
  for (let i = 0; i < rest.length - 1; i++) {
    const here = rest[i]!, next = rest[i + 1]!;
    path += ` Q${here.x},${here.y} ${(here.x + next.x) / 2},${(here.y + next.y) / 2}`;
  }
  const last = rest[rest.length - 1];
  return last ? `${path} L${last.x},${last.y}` : path;
}

export function Picture() {
  const nodes = graph.value?.nodes ?? [];
  const current = edges.value;
  const shape = nodes.map((n) => n.id).join() + '|' + current.map(edgeId).sort().join();
  const place = useRef<HTMLDivElement>(null);
  const [room, setRoom] = useState({ width: 1000, height: 600 });
  useEffect(() => {
    const box = place.current;
    if (!box) return undefined;
    const measure = () => { setRoom({ width: box.clientWidth, height: Math.max(320, window.innerHeight * 0.62) }); };
    const watch = new ResizeObserver(measure);
    watch.observe(box);
    measure();
    return () => { watch.disconnect(); };
  }, [!nodes.length]);
  const arranged = useMemo(() => fitting(nodes, current, room), [shape, room.width, room.height]);
  if (!nodes.length) return <p class="empty">No services yet. Start one: <code>masche run --service hello --port 8000 -- python -m http.server 8000</code></p>;
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const drawnAt = scale(arranged, room);
  return (
    <div class="room" ref={place}>
    <svg class="picture" viewBox={`0 0 ${arranged.width} ${arranged.height}`} width={arranged.width * drawnAt} height={arranged.height * drawnAt} role="group" aria-label="live service graph">
      <defs>
        {(['good', 'warn', 'bad', 'idle'] as const).map((t) => (
          <marker id={`arrow-${t}`} viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto">
            <path class={`arrow ${t}`} d="M0,0 L8,4 L0,8 z" />
          </marker>
        ))}
      </defs>
      {current.map((edge) => <Line edge={edge} drawn={arranged.lines.get(edgeId(edge))} key={edgeId(edge)} />)}
      {arranged.nodes.map((placed) => <Box placed={{ ...placed, node: byId.get(placed.node.id) ?? placed.node }} key={placed.node.id} />)}
    </svg>
    </div>
  );
}

// By mouse and by keyboard.
function opening(what: string, open: () => void) {
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== 'Enter' && event.key !== ' ') return;
    event.preventDefault();
    open();
  };
  return { role: 'button' as const, tabindex: 0, 'aria-label': what, onClick: open, onKeyDown };
}

function Line({ edge, drawn }: { edge: Edge; drawn: Drawn | undefined }) {
  if (!drawn) return null;
  const colour = edgeTone(edge);
  const id = edgeId(edge);
  const chosen = selected.value?.kind === 'edge' && selected.value.id === id;
  const width = 1.2 + Math.min(5, Math.log10(1 + edge.rate.requestsPerSecond) * 1.8);
  const speed = edge.rate.requestsPerSecond > 0 ? Math.max(0.35, 3 / Math.sqrt(1 + edge.rate.requestsPerSecond)) : 0;
  return (
    <g class={`edge ${colour}${chosen ? ' chosen' : ''}`} data-source={edge.source} data-destination={edge.destination}
      {...opening(`${edge.source} calls ${edge.destination}`, () => { selected.value = { kind: 'edge', id }; })}>
      <path class="reach" d={smooth(drawn.points)} />
      <path class="line" d={smooth(drawn.points)} style={{ strokeWidth: width }} marker-end={`url(#arrow-${colour})`} />
      {speed > 0 && <path class="flow" d={smooth(drawn.points)} style={{ animationDuration: `${speed}s`, strokeWidth: width }} />}
      <g transform={`translate(${drawn.label.x},${drawn.label.y})`}>
        <rect class="plate" x={-PLATE / 2} y="-19" width={PLATE} height="38" rx="7" />
        {edge.rate.requestsPerSecond > 0 ? <Figures edge={edge} /> : <text class="figures dim" y="4">quiet now</text>}
      </g>
    </g>
  );
}

function Figures({ edge }: { edge: Edge }) {
  const late = millis(edge.rate.p99Ms);
  return (
    <>
      <text class="figures" y="-3">{perSecond(edge.rate.requestsPerSecond)} · {outcome(edge)}</text>
      {edge.way === 'local' && <text class="figures dim" y="12.5">local · {late}</text>}
      {edge.way === 'mixed' && <text class="figures dim" y="12.5">TLS, local · {late}</text>}
      {edge.way === 'tls' && (edge.isMtls
        ? <><path class="lock" d="M-45,5.5 h8 v7 h-8 z M-43,5.5 v-2.2 a2,2 0 0 1 4,0 v2.2" /><text class="figures dim" x="6" y="12.5">p99 {late}</text></>
        : <text class="figures plaintext" y="12.5">plain · {late}</text>)}
    </>
  );
}

function Box({ placed: { node, x, y } }: { placed: Placed }) {
  const chosen = selected.value?.kind === 'node' && selected.value.id === node.id;
  const dots = node.workloads.slice(0, DOTS_SHOWN);
  return (
    <g class={`node ${node.kind}${chosen ? ' chosen' : ''}`} transform={`translate(${x - WIDTH / 2},${y - HEIGHT / 2})`}
      {...opening(`${node.kind} ${node.id}`, () => { selected.value = { kind: 'node', id: node.id }; })}>
      <title>{node.id}, {subtitle(node)}</title>
      <rect width={WIDTH} height={HEIGHT} rx="10" />
      <text class="name" x="14" y="24">{clip(node.name)}</text>
      <text class="dim" x="14" y="40">{clip(subtitle(node), SUBTITLE)}</text>
      {dots.map((w, i) => <Dot workload={w} x={18 + i * 12.5} key={w.workload} />)}
      {node.workloads.length > DOTS_SHOWN && <text class="dim" x={16 + DOTS_SHOWN * 12.5} y="56">+{node.workloads.length - DOTS_SHOWN}</text>}
      {!node.workloads.length && node.kind === 'service' && <text class="dim" x="14" y="57">no instances</text>}
    </g>
  );
}

// A circle with a proxy beside it, a diamond with the one of its machine, a square with the mesh in its own process.
function Dot({ workload, x }: { workload: NodeWorkload; x: number }) {
  const tone = `dot ${dotTone(workload)}`;
  const title = <title>{workload.workload} {standings.value.get(workload.workload)?.state ?? workload.state}, {workload.placement}</title>;
  if (workload.placement === 'node') return <path class={tone} d={`M${x},46.5 l5.5,5.5 l-5.5,5.5 l-5.5,-5.5 z`}>{title}</path>;
  return workload.placement === 'library'
    ? <rect class={tone} x={x - 4} y="48" width="8" height="8" rx="1">{title}</rect>
    : <circle class={tone} cx={x} cy="52" r="4.2">{title}</circle>;
}

function subtitle(node: Node): string {
  const kind = node.kind === 'service' ? node.namespace : `${node.kind} · ${node.namespace}`;
  const all = node.workloads.length;
  const where = ['node', 'library'].flatMap((placement) => {
    const some = node.workloads.filter((each) => each.placement === placement).length;
    return some ? [some === all ? placement : `${some} ${placement}`] : [];
  });
  return [kind, ...where].join(' · ');
}

// Its own health, or what its callers make of it when that is worse.
function dotTone(workload: NodeWorkload): Tone {
  const own = stateTone(workload.state, workload.isConnected);
  const standing = standings.value.get(workload.workload);
  return own === 'good' && standing ? standingTone(standing) : own;
}

function clip(words: string, most = 16): string { return words.length > most ? `${words.slice(0, most - 1)}…` : words; }
