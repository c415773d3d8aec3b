// What the API says, as masche.api.messages defines it. Instants are Unix seconds, latencies milliseconds, shares 0 to 1.

export interface Rate { requestsPerSecond: number; success: number; p50Ms: number; p95Ms: number; p99Ms: number }
export type InstanceState = 'ADMITTED' | 'EJECTED' | 'PROBING' | 'UNHEALTHY' | 'DRAINING';
// By mutual TLS, or within the one proxy of a machine.
export type Way = 'tls' | 'local' | 'mixed';
export interface CallerView {
  zone: string; weight: number; state: InstanceState; untilAt: number; reason: string;
  latencyMs: number; serviceMs: number; networkMs: number; isDryRun: boolean;
}
export interface EdgeEndpoint {
  workload: string; zone: string; rate: Rate; weight: number; isEjected: boolean;
  state: InstanceState; untilAt: number; reason: string; callers: CallerView[]; way: Way;
}
export interface Edge {
  source: string; destination: string; port: number; protocol: string; rate: Rate; isMtls: boolean;
  deniedPerSecond: number; endpoints: EdgeEndpoint[]; panic: string; way: Way;
}
export interface Edges { at: number; window: number; edges: Edge[] }
export interface ZoneLink {
  source: string; destination: string; via: string; rate: Rate; share: number;
  networkMs: number; usualMs: number; lost: number; isBad: boolean;
}
export interface ZoneShare { zone: string; share: number; via: string }
export interface ZoneShift { service: string; callerZone: string; shares: ZoneShare[] }
export interface Zones { at: number; window: number; links: ZoneLink[]; shifts: ZoneShift[] }
export interface NodeWorkload {
  workload: string; state: string; placement: string; machine: string; zone: string; identity: string;
  certificateExpiresAt: number; isConnected: boolean; isInSync: boolean; isExposed: boolean; lastError: string;
}
export interface Node {
  id: string; kind: 'service' | 'gateway' | 'client' | 'external'; namespace: string; name: string;
  ports: number[]; workloads: NodeWorkload[];
}
export interface Graph { revision: number; at: number; window: number; nodes: Node[]; edges: Edge[] }
export interface Event { sequence: number; at: number; kind: string; severity: string; about: string; message: string }
export interface Rejection { typeUrl: string; name: string; words: string }
export interface PortFact { appPort: number; meshPort: number }
export interface ProxyStatus {
  proxy: string; workload: string; service: string; placement: string; machine: string; zone: string; identity: string;
  certificateExpiresAt: number; state: string; isConnected: boolean; isInSync: boolean; revision: number;
  address: string; ports: PortFact[]; lastError: string; rejections: Rejection[]; isExposed: boolean; envoyVersion: string;
}
export interface Finding { where: string; why: string; fix: string; severity: string }
export interface PlaneFacts {
  version: string; revision: number; store: string; trustDomain: string; uptime: number;
  leases: { isCounting: boolean; heldBack: number; reason: string }; waitingFor: string[]; findings: Finding[]; panics: string[];
}
export interface MeshStatus { plane: PlaneFacts; proxies: ProxyStatus[] }
