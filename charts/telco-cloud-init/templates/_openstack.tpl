{{/*
clouds.yaml, as OpenStack's clients read it, from cluster.capo.
*/}}
{{- define "telco-cloud-init.openstack-clouds" -}}
{{- $capo := .Values.cluster.capo -}}
clouds:
  openstack:
    auth_type: v3applicationcredential
    region_name: {{ required "cluster.capo.region: missing" $capo.region | toJson }}
    auth:
      auth_url: {{ required "cluster.capo.auth_url: missing" $capo.auth_url | toJson }}
      application_credential_id: {{ required "cluster.capo.application_credential_id: missing" $capo.application_credential_id | toJson }}
      application_credential_secret: {{ required "cluster.capo.application_credential_secret: missing" $capo.application_credential_secret | toJson }}
{{ end -}}

{{/*
The Secret from which OpenStack's cloud controller on the cluster reads cloud.conf.
*/}}
{{- define "telco-cloud-init.openstack-cloud-config" -}}
{{- $capo := .Values.cluster.capo -}}
apiVersion: v1
kind: Secret
metadata:
  name: cloud-config
  namespace: kube-system
stringData:
  cloud.conf: |
    [Global]
    auth-url={{ $capo.auth_url | toJson }}
    region={{ $capo.region | toJson }}
    application-credential-id={{ $capo.application_credential_id | toJson }}
    application-credential-secret={{ $capo.application_credential_secret | toJson }}
    {{- if $capo.cacert }}
    ca-file=/etc/config/cacert
    {{- end }}
    [LoadBalancer]
    enabled={{ $capo.load_balancer | default false }}
  {{- if $capo.cacert }}
  cacert: {{ $capo.cacert | toJson }}
  {{- end }}
{{ end -}}
