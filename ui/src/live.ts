// The live stream of the control plane, as signals. A lost stream is opened again by the browser; what was last seen stays.
import { computed, signal } from '@preact/signals';
import type { Edge, EdgeEndpoint, Edges, Event, Graph, MeshStatus, Zones } from './messages';
import { gravity } from './words';

export type Connection = 'connecting' | 'live' | 'lost' | 'login';

export const connection = signal<Connection>('connecting');
export const graph = signal<Graph | null>(null);
export const status = signal<MeshStatus | null>(null);
export const edges = signal<Edge[]>([]);
export const events = signal<Event[]>([]);
export const zones = signal<Zones | null>(null);
// How each instance stands with those who call it, the worst of them.
export const standings = computed(() => {
  const found = new Map<string, EdgeEndpoint>();
  for (const edge of edges.value) {
    for (const each of edge.endpoints) {
      const known = found.get(each.workload);
      if (!known || gravity(each) > gravity(known)) found.set(each.workload, each);
    }
  }
  return found;
});
export const selected = signal<{ kind: 'node' | 'edge'; id: string } | null>(null);

export interface Sample { at: number; rate: number; failed: number; p50: number; p99: number }
const KEPT_SAMPLES = 300;
const KEPT_EVENTS = 200;
const SILENCE = { requestsPerSecond: 0, success: 1, p50Ms: 0, p95Ms: 0, p99Ms: 0 };
export const history = signal<Map<string, Sample[]>>(new Map());
export const ALL = 'all';

// A stream that is opened anew tells all once more, and another control plane begins to count anew.
export const eventId = (event: Event) => `${event.sequence}@${event.at}`;
export const edgeId = (edge: Edge) => `${edge.source}>${edge.destination}:${edge.port}`;

export async function start(): Promise<void> {
  const code = location.pathname === '/login' ? location.hash.slice(1) : '';
  if (code) {
    // A code is good once; it leaves the address bar before anything else can read it.
    history_replace('/');
    await fetch('/v1/session', {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ code }),
    });
  }
  const answer = await fetch('/v1/status', { headers: { accept: 'application/json' } });
  if (answer.status === 401 || answer.status === 403) { connection.value = 'login'; return; }
  if (answer.ok) status.value = await answer.json() as MeshStatus;
  listen();
}

function history_replace(path: string): void { window.history.replaceState(null, '', path); }

function listen(): void {
  const source = new EventSource('/v1/live');
  const on = <T>(name: string, take: (message: T) => void) =>
    source.addEventListener(name, (message) => { take(JSON.parse((message as MessageEvent<string>).data) as T); });
  source.onopen = () => { connection.value = 'live'; };
  source.onerror = () => {
    connection.value = 'lost';
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { void retry(); }, 2000);
  };
  on<Graph>('graph', (message) => { graph.value = message; record(message.at, message.edges); });
  on<MeshStatus>('status', (message) => { status.value = message; });
  on<Edges>('edges', (message) => { record(message.at, message.edges); });
  on<Zones>('zones', (message) => { zones.value = message; });
  on<Event>('event', (message) => {
    if (events.value.some((each) => eventId(each) === eventId(message))) return;
    events.value = [message, ...events.value].slice(0, KEPT_EVENTS);
  });
}

async function retry(): Promise<void> {
  try {
    const answer = await fetch('/v1/status');
    if (answer.status === 401 || answer.status === 403) { connection.value = 'login'; return; }
    if (answer.ok) { listen(); return; }
  } catch { /* the control plane is away; the last picture stays and we ask again */ }
  setTimeout(() => { void retry(); }, 2000);
}

// A line that falls silent stays for a while, so that the picture does not jump with every pause.
const QUIET_SECONDS = 120;
const lastSeen = new Map<string, { at: number; edge: Edge }>();

function withQuiet(at: number, current: Edge[]): Edge[] {
  for (const edge of current) lastSeen.set(edgeId(edge), { at, edge });
  const loud = new Set(current.map(edgeId));
  const quiet: Edge[] = [];
  for (const [id, seen] of lastSeen) {
    if (loud.has(id)) continue;
    if (at - seen.at > QUIET_SECONDS) lastSeen.delete(id);
    else quiet.push({ ...seen.edge, rate: SILENCE, deniedPerSecond: 0, endpoints: [] });
  }
  return [...current, ...quiet];
}

function record(at: number, heard: Edge[]): void {
  const current = withQuiet(at, heard);
  edges.value = current;
  const shown = new Set([ALL, ...current.map(edgeId)]);
  const next = new Map([...history.value].filter(([key]) => shown.has(key)));
  for (const edge of current) append(next, edgeId(edge), sample(at, [edge]));
  append(next, ALL, sample(at, current));
  history.value = next;
}

function append(table: Map<string, Sample[]>, key: string, one: Sample): void {
  const old = table.get(key) ?? [];
  const last = old[old.length - 1];
  if (last && one.at <= last.at) return;
  table.set(key, [...old, one].slice(-KEPT_SAMPLES));
}

function sample(at: number, from: Edge[]): Sample {
  const rate = from.reduce((sum, edge) => sum + edge.rate.requestsPerSecond, 0);
  const failed = from.reduce((sum, edge) => sum + edge.rate.requestsPerSecond * (1 - edge.rate.success), 0);
  const worst = (pick: (edge: Edge) => number) => from.reduce((most, edge) => Math.max(most, pick(edge)), 0);
  return { at, rate, failed, p50: worst((e) => e.rate.p50Ms), p99: worst((e) => e.rate.p99Ms) };
}
