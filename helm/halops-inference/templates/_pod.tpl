{{- define "halops.pod" -}}
metadata:
  labels:
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- /* Not the chart's version: a new one alone is no reason to load a model again. */}}
    {{- include "halops.selector" . | nindent 4 }}
    halops.dev/track: {{ include "halops.track" . }}
  annotations:
    # A change of the scripts is a new pod: its probes would otherwise be those of neither version.
    halops.dev/scripts-sha256: {{ (.Files.Glob "files/*.sh").AsConfig | sha256sum }}
    {{- with include "halops.provenance" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "halops.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # The drain's bound, and what SIGTERM itself may take.
  terminationGracePeriodSeconds: {{ add .Values.drain.settleSeconds .Values.drain.timeoutSeconds 15 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ int .Values.runAsUser }}
    runAsGroup: {{ int .Values.runAsUser }}
    fsGroup: {{ int .Values.runAsUser }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with include "halops.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "halops.initContainers" . | trim }}
  initContainers: {{- . | nindent 4 }}
  {{- end }}
  containers: {{- include "halops.container" . | nindent 4 }}
  volumes:
    {{- include "halops.modelVolumes" . | trim | nindent 4 }}
    - name: scripts
      configMap: {name: {{ include "halops.name" . }}-scripts}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    # The server's log, for the startup probe. In memory and small: once it is full, more of it is dropped (what the
    # container's log has isn't).
    - name: run
      emptyDir: {medium: Memory, sizeLimit: 256Ki}
    {{- if .Values.auth.secret }}
    - name: keys
      secret:
        secretName: {{ .Values.auth.secret }}
        items: [{key: {{ .Values.auth.key }}, path: keys}]
    {{- end }}
    {{- if and (include "halops.fetches" .) .Values.fetch.caConfigMap }}
    - name: ca
      configMap: {name: {{ .Values.fetch.caConfigMap }}}
    {{- end }}
{{- end -}}

{{- define "halops.container" -}}
- name: server
  image: {{ .Values.image }}
  imagePullPolicy: {{ .Values.imagePullPolicy }}
  command: {{- toYaml .Values.server.command | nindent 4 }}
  args: {{- include "halops.args" . | trim | nindent 4 }}
  ports:
    - {name: http, containerPort: 8080, protocol: TCP}
  env:
    - {name: HOME, value: /tmp}
    - {name: GOMP_SPINCOUNT, value: "10000"} # a thread waits awake for some microseconds, not for milliseconds
    - {name: HALOPS_LAYERS, value: {{ include "halops.expectedLayers" . | quote }}}
  resources:
    {{- $gpus := dict }}
    {{- if .Values.gpu.count }}
    {{- $gpus = dict .Values.gpu.resource (toString (int .Values.gpu.count)) }}
    {{- end }}
    requests: {{- merge (dict) $gpus (.Values.resources.requests | default dict) | toYaml | nindent 6 }}
    limits: {{- merge (dict) $gpus (.Values.resources.limits | default dict) | toYaml | nindent 6 }}
  securityContext: {{- include "halops.securityContext" . | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  startupProbe:
    exec: {command: [bash, /opt/halops/startup.sh]}
    periodSeconds: 1
    timeoutSeconds: {{ int .Values.startup.answerSeconds }}
    failureThreshold: {{ int .Values.startup.seconds }}
  # /health is answered while slots are busy: a server with a queue stays ready, and alive.
  readinessProbe:
    httpGet: {path: /health, port: http}
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 3
  livenessProbe:
    httpGet: {path: /health, port: http}
    periodSeconds: 10
    timeoutSeconds: 10
    failureThreshold: 6
  lifecycle:
    preStop:
      exec: {command: [bash, /opt/halops/drain.sh, "{{ int .Values.drain.settleSeconds }}", "{{ int .Values.drain.timeoutSeconds }}"]}
  volumeMounts:
    {{- include "halops.modelMounts" . | trim | nindent 4 }}
    - {name: scripts, mountPath: /opt/halops, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    - {name: run, mountPath: /run/halops}
    {{- if .Values.auth.secret }}
    - {name: keys, mountPath: /etc/halops/keys, readOnly: true}
    {{- end }}
{{- end -}}

{{/* On which nodes: by the GPU's memory, never by product name. */}}
{{- define "halops.placement" -}}
{{- if .Values.gpu.count }}
{{- with .Values.gpu.runtimeClass }}
runtimeClassName: {{ . }}
{{- end }}
{{- if .Values.gpu.memoryGiB }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        # Cards report a little less than they are sold with.
        - matchExpressions:
            - {key: nvidia.com/gpu.memory, operator: Gt, values: ["{{ mulf .Values.gpu.memoryGiB 1024 0.85 | int }}"]}
{{- end }}
{{- end }}
{{- if or .Values.gpu.count .Values.tolerations }}
tolerations:
  {{- if .Values.gpu.count }}
  - {key: {{ .Values.gpu.resource }}, operator: Exists, effect: NoSchedule}
  {{- end }}
  {{- with .Values.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClass }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
