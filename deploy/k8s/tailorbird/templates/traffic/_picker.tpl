{{/* The EndpointPickerConfig. Of a gRPC call nothing here reads the body, which no parser of the router
knows: the model comes from a header, all else from what pods tell of themselves. */}}
{{- define "tailorbird.pickerConfig" -}}
{{- $config := .Values.traffic.picker.config -}}
{{- $parser := ternary "openai-parser" "passthrough-parser" (eq .Values.traffic.inferencePool.api "openai") -}}
{{- $weights := dict
  "lora-affinity-scorer" $config.weights.loraAffinity
  "queue-scorer" $config.weights.queue
  "kv-cache-utilization-scorer" $config.weights.kvCache
-}}
apiVersion: {{ $config.apiVersion }}
kind: EndpointPickerConfig
plugins:
  # The pods' metrics are on their HTTP port, not on the pool's.
  - type: metrics-data-source
    parameters:
      scheme: http
      path: /metrics
      port: {{ .Values.serving.ports.http }}
      interval: {{ $config.metricsInterval }}
  # Reads them under vLLM's names.
  - type: core-metrics-extractor
    parameters:
      defaultEngine: vllm
  - type: {{ $parser }}
  {{- range $scorer, $weight := $weights }}
  {{- if $weight }}
  - type: {{ $scorer }}
  {{- end }}
  {{- end }}
  - type: max-score-picker
requestHandler:
  parsers:
    - pluginRef: {{ $parser }}
dataLayer:
  sources:
    - pluginRef: metrics-data-source
      extractors:
        - pluginRef: core-metrics-extractor
schedulingProfiles:
  - name: default
    plugins:
      {{- range $scorer, $weight := $weights }}
      {{- if $weight }}
      - pluginRef: {{ $scorer }}
        weight: {{ $weight }}
      {{- end }}
      {{- end }}
      - pluginRef: max-score-picker
{{- end -}}
