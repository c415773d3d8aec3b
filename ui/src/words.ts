// Numbers as people read them.
import type { Edge, EdgeEndpoint, InstanceState, Rate } from './messages';

export function perSecond(value: number): string {
  return value >= 100 ? `${Math.round(value)}/s` : value >= 10 ? `${value.toFixed(0)}/s` : `${value.toFixed(1)}/s`;
}
export function share(value: number): string {
  if (value >= 1) return '100 %';
  const percent = value * 100;
  return `${percent >= 99 ? (Math.floor(percent * 100) / 100).toFixed(2) : percent.toFixed(1)} %`;
}
export function millis(value: number): string {
  if (value === 0) return '–';
  return value >= 1000 ? `${(value / 1000).toFixed(2)} s` : value >= 100 ? `${Math.round(value)} ms` : `${value.toFixed(1)} ms`;
}
export function ahead(instant: number, now: number): string {
  if (!instant) return '–';
  const seconds = instant - now;
  if (seconds <= 0) return 'expired';
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}
export function clock(instant: number): string {
  return new Date(instant * 1000).toLocaleTimeString([], { hour12: false });
}
export type Tone = 'good' | 'warn' | 'bad' | 'idle';
export function tone(rate: Rate): Tone {
  if (rate.requestsPerSecond === 0) return 'idle';
  return rate.success >= 0.999 ? 'good' : rate.success >= 0.95 ? 'warn' : 'bad';
}
// Who is denied is answered, so that nothing has failed; but it is not well.
export function edgeTone(edge: Edge): Tone {
  const own = tone(edge.rate);
  return own === 'good' && edge.deniedPerSecond > 0 ? 'warn' : own;
}
// How the calls of an edge end: how many are denied, while some are, else how many succeed.
export function outcome(edge: Edge): string {
  if (edge.deniedPerSecond === 0) return share(edge.rate.success);
  const denied = Math.min(1, edge.deniedPerSecond / edge.rate.requestsPerSecond);
  return `${denied > 0.995 ? 'all' : percent(denied)} denied`;
}
export function stateTone(state: string, isConnected: boolean): Tone {
  if (state === 'READY') return isConnected ? 'good' : 'warn';
  return state === 'UNHEALTHY' ? 'bad' : state === 'DRAINING' ? 'warn' : 'idle';
}
const GRAVITY: Record<InstanceState, number> = { ADMITTED: 0, DRAINING: 1, PROBING: 2, UNHEALTHY: 3, EJECTED: 4 };
// What needs to be looked at first: who is kept off, then who is weighted down.
export function gravity(each: EdgeEndpoint): number { return GRAVITY[each.state] * 1000 + (1000 - Math.min(1000, each.weight)); }
export function instanceTone(state: InstanceState): Tone {
  return state === 'ADMITTED' ? 'good' : state === 'EJECTED' || state === 'UNHEALTHY' ? 'bad' : 'warn';
}
// An instance that gets a quarter of a fair share or less is on the way out.
export function standingTone(each: EdgeEndpoint): Tone {
  return each.state === 'ADMITTED' && each.weight <= 25 ? 'warn' : instanceTone(each.state);
}
export function zoneName(zone: string): string { return zone || 'no zone'; }
export function percent(value: number): string {
  const shown = value * 100;
  return `${Number(shown.toPrecision(2))} %`;
}
export function short(workload: string): string { return workload.split('/').pop() ?? workload; }
