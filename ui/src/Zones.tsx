// The links between zones as a matrix: what the network costs, how much goes there, and which way around a slow link.
import { zones } from './live';
import type { ZoneLink } from './messages';
import { millis, percent, zoneName } from './words';

export function Zones() {
  const found = zones.value;
  const links = found?.links ?? [];
  const names = [...new Set(links.flatMap((link) => [link.source, link.destination]))].sort();
  if (names.length < 2) return null;
  const sources = names.filter((name) => links.some((link) => link.source === name));
  const cell = (source: string, destination: string) => links.filter((link) => link.source === source && link.destination === destination);
  return (
    <section class="zones">
      <h2>Zones <span class="dim">{names.length}</span></h2>
      <div class="scroll">
        <table>
          <thead><tr><th>from \ to</th>{names.map((name) => <th key={name}>{zoneName(name)}</th>)}</tr></thead>
          <tbody>{sources.map((source) => (
            <tr key={source}><th>{zoneName(source)}</th>{names.map((destination) => (
              <td key={destination}>{cell(source, destination).map((link) => <Way link={link} key={link.via} />)}</td>))}
            </tr>))}
          </tbody>
        </table>
      </div>
      {found && found.shifts.map((shift) => (
        <p class="shift" key={shift.service + shift.callerZone}>{shift.service}, callers in {zoneName(shift.callerZone)}: {shift.shares
          .map((each) => `${percent(each.share)} to ${zoneName(each.zone)}${each.via ? ` via ${each.via}` : ''}`).join(', ')}</p>))}
    </section>
  );
}

function Way({ link }: { link: ZoneLink }) {
  const network = link.networkMs > 0 ? millis(link.networkMs) : link.rate.p50Ms > 0 ? `p50 ${millis(link.rate.p50Ms)}` : 'quiet';
  return (
    <div class={`way ${link.isBad ? 'bad' : ''}`}>
      {link.via && <span class="zone">via {link.via}</span>} <b>{network}</b>
      {link.share > 0 && <span class="dim"> {percent(link.share)}</span>}
      {link.usualMs > 0 && link.isBad && <span class="dim"> usually {millis(link.usualMs)}</span>}
      {link.lost > 0.001 && <span class="bad"> lost {percent(link.lost)}</span>}
    </div>
  );
}
