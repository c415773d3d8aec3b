// Numbers as people read them.
import type { Rate } from './messages';

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
export function stateTone(state: string, isConnected: boolean): Tone {
  if (state === 'READY') return isConnected ? 'good' : 'warn';
  return state === 'UNHEALTHY' ? 'bad' : state === 'DRAINING' ? 'warn' : 'idle';
}
