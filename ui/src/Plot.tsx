// One small plot over the last five minutes.
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { signal } from '@preact/signals';
import { history, type Sample } from './live';
import { clock } from './words';

// A canvas does not follow the style sheet by itself.
const scheme = window.matchMedia('(prefers-color-scheme: dark)');
const isDark = signal(scheme.matches);
scheme.addEventListener('change', () => { isDark.value = scheme.matches; });

const HEIGHT = 118;
const SHORTEST = 60;

const NONE: Sample[] = [];
interface Line { label: string; colour: string; pick: (sample: Sample) => number }
const RATE: Line[] = [
  { label: 'requests/s', colour: '#2aa889', pick: (s) => s.rate },
  { label: 'failed/s', colour: '#d9534f', pick: (s) => s.failed },
];
const LATENCY: Line[] = [
  { label: 'p99 ms', colour: '#8a6fd1', pick: (s) => s.p99 },
  { label: 'p50 ms', colour: '#5b9bd5', pick: (s) => s.p50 },
];

export function Plots({ of }: { of: string }) {
  return <><Plot of={of} lines={RATE} /><Plot of={of} lines={LATENCY} /></>;
}

function Plot({ of, lines }: { of: string; lines: Line[] }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const samples = history.value.get(of) ?? NONE;
  useEffect(() => {
    const box = place.current;
    if (!box) return undefined;
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue('--dim').trim();
    const axis = { stroke: ink, grid: { stroke: style.getPropertyValue('--hair').trim(), width: 1 }, ticks: { show: false }, font: '11px system-ui' };
    const made = new uPlot({
      width: box.clientWidth, height: HEIGHT, legend: { show: true, live: false }, cursor: { show: false },
      scales: { x: { time: true, range: (_u, min, max) => [Math.min(min, max - SHORTEST), max] }, y: { range: (_u, _min, max) => [0, Math.max(1, max * 1.1)] } },
      axes: [{ ...axis, space: 84, size: 24, values: (_u, at) => at.map(clock) }, { ...axis, size: 40, space: 26 }],
      series: [{}, ...lines.map((line) => ({ label: line.label, stroke: line.colour, width: 1.6, points: { show: false } }))],
    }, [[], ...lines.map(() => [])], box);
    plot.current = made;
    const watch = new ResizeObserver(() => { made.setSize({ width: box.clientWidth, height: HEIGHT }); });
    watch.observe(box);
    return () => { watch.disconnect(); made.destroy(); plot.current = null; };
  }, [isDark.value]);
  useEffect(() => {
    plot.current?.setData([samples.map((s) => s.at), ...lines.map((line) => samples.map(line.pick))]);
  }, [samples, isDark.value]);
  return <div class="plot" ref={place} />;
}
